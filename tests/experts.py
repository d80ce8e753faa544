"""Random models whose blocks have experts, one of each family, with different layouts and routers."""

import copy

import torch
import transformers
from transformers import (
    AutoModelForCausalLM,
    DeepseekV2Config,
    DeepseekV3Config,
    GptOssConfig,
    GraniteMoeConfig,
    JambaConfig,
    Llama4TextConfig,
    MixtralConfig,
    OlmoeConfig,
    PhimoeConfig,
    Qwen3MoeConfig,
    Qwen3NextConfig,
)

from tests.conftest import VOCABULARY

_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
_SIZES |= {"vocab_size": VOCABULARY, "max_position_embeddings": 64, "intermediate_size": 48}
_PICKED = {"num_experts_per_tok": 2}
_LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 16,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
}
_LATENT |= {"moe_intermediate_size": 24, "n_routed_experts": 4, "n_shared_experts": 1, "first_k_dense_replace": 1}
_LINEAR = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "linear_key_head_dim": 8}
_LINEAR |= {"linear_value_head_dim": 8, "shared_expert_intermediate_size": 32}

MOE_CONFIGS = {
    "mixtral": MixtralConfig(**_SIZES, **_PICKED, num_local_experts=4),
    "qwen3_moe": Qwen3MoeConfig(**_SIZES, **_PICKED, head_dim=8, num_experts=4, moe_intermediate_size=24),
    "olmoe": OlmoeConfig(**_SIZES, **_PICKED, num_experts=4),
    "gpt_oss": GptOssConfig(**_SIZES, **_PICKED, head_dim=8, num_local_experts=4, sliding_window=8),
    "deepseek_v2": DeepseekV2Config(**_SIZES | _LATENT, **_PICKED, topk_method="greedy"),
    "deepseek_v3": DeepseekV3Config(**_SIZES | _LATENT, **_PICKED, n_group=2, topk_group=1),
    "granitemoe": GraniteMoeConfig(**_SIZES, **_PICKED, num_local_experts=4),
    "phimoe": PhimoeConfig(**_SIZES, **_PICKED, num_local_experts=4),
    "llama4": Llama4TextConfig(**_SIZES, num_experts_per_tok=1, head_dim=8, num_local_experts=4,
                               intermediate_size_mlp=48, interleave_moe_layer_step=1),
    "qwen3_next": Qwen3NextConfig(**_SIZES, **_PICKED, **_LINEAR, head_dim=8, num_experts=4, moe_intermediate_size=24,
                                  layer_types=["linear_attention", "full_attention"]),
    "jamba": JambaConfig(**_SIZES, **_PICKED, num_experts=4, expert_layer_period=2, expert_layer_offset=1,
                         attn_layer_period=2, attn_layer_offset=1, mamba_dt_rank=4),
}  # fmt: skip
if tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23):
    # An older Jamba wants CUDA, and an older GraniteMoe computes in a module of another shape.
    MOE_CONFIGS = {name: config for name, config in MOE_CONFIGS.items() if name not in ("jamba", "granitemoe")}


def moe_model(family: str, seed: int = 0):
    """An untrained model of a family in evaluation mode, weights drawn with `seed`."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(MOE_CONFIGS[family])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(std=0.1)
    return model
