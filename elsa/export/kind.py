"""Which class of transformers a config's model is of: of a wrapper of several models the whole, not its decoder."""

from typing import Any

from transformers import AutoModelForCausalLM, AutoModelForImageTextToText, PretrainedConfig
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING,
)


def auto_of(config: PretrainedConfig) -> Any:
    """What loads it. A config in neither mapping is taken for a decoder's."""
    return AutoModelForImageTextToText if wraps(config) else AutoModelForCausalLM


def class_of(config: PretrainedConfig) -> Any:
    """The class itself, None if there is none."""
    mapping = MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING if wraps(config) else MODEL_FOR_CAUSAL_LM_MAPPING
    return mapping.get(type(config), None)


def wraps(config: PretrainedConfig) -> bool:
    """Whether it is of a model for pictures or sound beside text."""
    return type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
