"""What must fit before a model is used: its kind, its files, and their names and shapes. `UserError` where it does not.

The loader of transformers draws a weight that is missing at random, and drops one that is left over, without a word.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from inspect import Parameter, signature
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING
from transformers.utils import logging

from elsa import hub
from elsa.errors import UserError, in_one_line, under
from elsa.export.kind import auto_of, class_of, wraps
from elsa.export.stored import Stored, sparse_modules

WRAPPERS = {r"_orig_mod\.": "", r"^module\.": ""}  # names under torch.compile and DistributedDataParallel
_ANY = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_COMPUTED = (".inv_freq", ".masked_bias", ".attn.bias")  # buffers that older checkpoints hold and no model reads


def check_kind(name: str, config: PretrainedConfig) -> None:
    """Raise `UserError` unless the model is a decoder with plain weights."""
    given = getattr(config, "quantization_config", None)
    if given is not None and sparse_modules(given) is None:
        method = given.get("quant_method") if isinstance(given, dict) else getattr(given, "quant_method", None)
        raise UserError(
            f"model={name}: its weights are quantised ({method}); give the checkpoint in float that it was made from"
        )
    kind, text = class_of(config), config.get_text_config(decoder=True)
    both_ways = type(config) in MODEL_FOR_MASKED_LM_MAPPING and not getattr(config, "is_decoder", False)
    if kind is None or both_ways or any(getattr(each, "is_encoder_decoder", False) for each in (config, text)):
        raise UserError(
            f"model={name}: {config.model_type} is no decoder that predicts the next token, so not for elsa"
        )
    needed = _needed(kind) if wraps(config) else []
    if needed:
        raise UserError(
            f"model={name}: {config.model_type} does not run on text alone (it wants {', '.join(needed)}), so there is "
            "nothing to calibrate, train or score its decoder with"
        )


def skeleton_of(name: str, config: PretrainedConfig, folder: Path) -> PreTrainedModel:
    """The model without memory for its weights (meta device), if the files in `folder` hold just its weights.

    Only the files' headers are read.
    """
    with explained(name, folder), _without_bar():
        with under("model"):
            headers = {key: torch.empty(shape, device="meta") for key, shape in Stored(folder).shapes.items()}
        loaded = class_of(config).from_pretrained(
            None, config=config, state_dict=headers, device_map="meta", key_mapping=WRAPPERS,
            output_loading_info=True, ignore_mismatched_sizes=True,
        )  # fmt: skip
    model, found = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
    refuse_what_does_not_fit(name, model, found)
    return model


def empty_skeleton(name: str, config: PretrainedConfig) -> PreTrainedModel:
    """The model of a config alone, without memory for its weights (meta device)."""
    with explained(name, None), torch.device("meta"):
        model: PreTrainedModel = auto_of(config).from_config(config)
        return model


def refuse_what_does_not_fit(name: str, model: PreTrainedModel, found: dict[str, Any]) -> None:
    """`found`: what the loader tells of missing, unexpected and mismatched keys."""
    missing = sorted(map(str, found["missing_keys"]))
    left = sorted(str(key) for key in found["unexpected_keys"] if not str(key).endswith(_COMPUTED))
    other = [f"{key} {list(its)}, wanted {list(wanted)}" for key, its, wanted in sorted(found["mismatched_keys"])]
    said = [f"{len(missing)} of its weights are not in its files ({few(missing)})"] if missing else []
    said += [f"{len(left)} tensors of its files are not in the model ({few(left)})"] if left else []
    said += [f"{len(other)} tensors of its files have another shape ({few(other)})"] if other else []
    if said:
        kind = type(model).__name__
        raise UserError(f"model={name}: {', and '.join(said)}; config.json and files do not fit each other as a {kind}")


def refuse_not_finite(name: str, model: nn.Module) -> None:
    """Raise `UserError` with the names of weights that hold NaN or infinity."""
    broken = [key for key, each in model.named_parameters() if not bool(each.isfinite().all())]
    if broken:
        raise UserError(f"model={name}: NaN or infinity in {len(broken)} of its weights ({few(broken)})")


def few(names: list[str]) -> str:
    """The first three."""
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")


@contextmanager
def explained(name: str, folder: Path | None) -> Iterator[None]:
    """Turn whatever a library says of files that it cannot use into one line. `folder`: None for files of the hub."""
    try:
        yield
    except (UserError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a loader meets files of every kind, and has no class of errors of its own
        hint = (
            ""
            if folder is not None or hub.reachable()
            else " and the hub cannot be reached: give a local folder, or run once with network"
        )
        known = isinstance(error, (OSError, ValueError, ImportError))
        reason = in_one_line(error, 300)
        said = reason if known else f"{type(error).__name__}: {reason}"
        raise UserError(f"model={name}: cannot be loaded{hint}: {said}") from error


def _needed(kind: type[nn.Module]) -> list[str]:
    """What a model's forward pass wants beside ids."""
    forward: Callable[..., Any] = kind.forward
    given = list(signature(forward).parameters.values())[1:]  # without its own `self`
    return [each.name for each in given if each.default is Parameter.empty and each.kind not in _ANY and
            each.name != "input_ids"]  # fmt: skip


@contextmanager
def _without_bar() -> Iterator[None]:
    """Without transformers' bar: headers are read in no time."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()
