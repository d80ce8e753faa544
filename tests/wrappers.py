"""Random models whose decoder is one part of several: with towers for pictures, blocks that share weights, mixers."""

import copy

import pytest
import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageTextToText,
    BambaConfig,
    CLIPVisionConfig,
    FalconH1Config,
    Gemma3Config,
    JambaConfig,
    LlamaConfig,
    LlavaConfig,
    Qwen2_5_VLConfig,
    Qwen3NextConfig,
    Qwen3VLConfig,
    Zamba2Config,
)

from tests.conftest import VOCABULARY

_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
_TEXT = _SMALL | {"num_key_value_heads": 2, "vocab_size": VOCABULARY, "max_position_embeddings": 64}
_VISION = _SMALL | {"num_hidden_layers": 3, "hidden_size": 48, "image_size": 28, "patch_size": 14}
_ROPE = {"rope_type": "default", "mrope_section": [2, 1, 1], "rope_theta": 1e4}
_MARKS = {"image_token_id": 5, "video_token_id": 6, "vision_start_token_id": 7, "vision_end_token_id": 8}
_QWEN = {
    "depth": 3,
    "hidden_size": 32,
    "num_heads": 4,
    "intermediate_size": 48,
    "out_hidden_size": 32,
    "patch_size": 14,
}

WRAPPER_CONFIGS = {
    "gemma3": Gemma3Config(text_config=_TEXT | {"head_dim": 8, "sliding_window": 8}, vision_config=_VISION,
                           mm_tokens_per_image=1, image_token_index=5),
    "llava": LlavaConfig(text_config=LlamaConfig(**_TEXT), vision_config=CLIPVisionConfig(**_VISION),
                         image_token_index=5),
    "qwen2_5_vl": Qwen2_5_VLConfig(text_config=_TEXT | {"rope_parameters": _ROPE}, vision_config=_QWEN, **_MARKS),
    "qwen3_vl": Qwen3VLConfig(text_config=_TEXT | {"head_dim": 8, "rope_parameters": _ROPE},
                              vision_config=_QWEN | {"deepstack_visual_indexes": [0]}, **_MARKS),
}  # fmt: skip

_MAMBA = {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 16, "mamba_n_groups": 1, "mamba_chunk_size": 16}
MIXED_CONFIGS = {
    "bamba": BambaConfig(**_TEXT, **_MAMBA, attn_layer_indices=[1]),
    "falcon_h1": FalconH1Config(**_TEXT, **_MAMBA, mamba_d_ssm=64, head_dim=8),
    "qwen3_next": Qwen3NextConfig(
        **_TEXT, head_dim=8, layer_types=["linear_attention", "full_attention"], mlp_only_layers=[0, 1],
        linear_num_key_heads=2, linear_num_value_heads=2, linear_key_head_dim=8, linear_value_head_dim=8,
    ),
}  # fmt: skip
NEW = tuple(map(int, transformers.__version__.split(".")[:2])) >= (5, 23)
if NEW:  # older ones lack Nemotron-H, cannot build this Zamba2, and want CUDA for Jamba
    MIXED_CONFIGS |= {
        "zamba2": Zamba2Config(
            vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=4, hybrid_layer_ids=[1, 3],
            layers_block_type=["mamba", "hybrid", "mamba", "hybrid"], mamba_d_state=8, mamba_headdim=16,
            n_mamba_heads=4, mamba_ngroups=1, intermediate_size=48, chunk_size=16, num_attention_heads=4,
            num_key_value_heads=4, attention_head_dim=16, num_mem_blocks=1, adapter_rank=4,
            use_shared_attention_adapter=True,
        ),
        "jamba": JambaConfig(**_TEXT, num_experts=1, attn_layer_period=2, attn_layer_offset=1, mamba_dt_rank=4,
                             mamba_d_state=4),
        "nemotron_h": transformers.NemotronHConfig(
            **_SMALL | {"num_hidden_layers": 3}, vocab_size=VOCABULARY, num_key_value_heads=2, head_dim=8,
            max_position_embeddings=64, hybrid_override_pattern="M*-", mamba_num_heads=4, mamba_head_dim=16,
            ssm_state_size=8, n_groups=1, chunk_size=16,
        ),
    }  # fmt: skip
needs_new = pytest.mark.skipif(not NEW, reason="older transformers have no such model")


def other_model(family: str, seed: int = 0):
    """An untrained model of a family in evaluation mode, weights drawn with `seed`."""
    torch.manual_seed(seed)
    auto = AutoModelForImageTextToText if family in WRAPPER_CONFIGS else AutoModelForCausalLM
    model = auto.from_config(copy.deepcopy((WRAPPER_CONFIGS | MIXED_CONFIGS)[family])).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() >= 2 and "A_log" not in name:
                parameter.normal_(std=0.1)
    return model
