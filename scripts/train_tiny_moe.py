"""Train a small model with experts on the Python standard library's sources, as the embedded `tiny` was trained.

A Qwen3-MoE of 3.2 M parameters, of which a token uses 1.1 M: 4 blocks of 8 experts, 2 for each token, with tiny's
tokenizer. A loss that balances the router (Switch Transformers, arXiv 2101.03961, Eq. 4) keeps all experts in use.
A quarter of an hour on one core.

python scripts/train_tiny_moe.py; elsa model=pretrained model.path=outputs/tiny_moe
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch import nn
from train_tiny_model import LENGTH, fit, next_token_loss, options_of
from transformers import PreTrainedTokenizerFast, Qwen3MoeConfig, Qwen3MoeForCausalLM
from transformers.models.qwen3_moe.modeling_qwen3_moe import load_balancing_loss_func

from elsa.data.sources import Stdlib
from elsa.data.windows import WindowReader

BALANCE = 0.01  # of the routers' loss
EXPERTS, CHOSEN = 8, 2  # for a token


def new_model(vocabulary: int) -> Qwen3MoeForCausalLM:
    """Hidden 128, 4 blocks, 4 heads of 32 in pairs that share keys and values, experts of 224, embeddings tied."""
    config = Qwen3MoeConfig(
        vocab_size=vocabulary, hidden_size=128, num_hidden_layers=4, num_attention_heads=4, num_key_value_heads=2,
        num_experts=EXPERTS, num_experts_per_tok=CHOSEN, moe_intermediate_size=224, norm_topk_prob=True,
        max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return Qwen3MoeForCausalLM(config)


def loss_of(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """What is trained: the next token's loss, and the mean of the routers', each balanced by itself."""
    found = model(ids, use_cache=False, output_router_logits=True)
    balances = [
        torch.as_tensor(load_balancing_loss_func((each,), EXPERTS, CHOSEN))
        for each in found.router_logits  # all together, as transformers has them, one makes up for another
    ]
    return next_token_loss(found.logits, ids) + BALANCE * torch.stack(balances).mean()


def prediction_loss(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    return next_token_loss(model(ids, use_cache=False).logits, ids)


def main() -> None:
    options = options_of(__doc__, steps=2000, decay=0.4, batch=4, learning_rate=3e-3, out=Path("outputs/tiny_moe"))

    torch.manual_seed(0)
    source = Stdlib(sequence_length=LENGTH)
    tokenizer = PreTrainedTokenizerFast.from_pretrained("elsa/model/tiny")
    reader = WindowReader(tokenizer=tokenizer, cache=Path("outputs/cache"))
    windows = reader.training(source, options.steps * options.batch, seed=0)
    held_out = reader.evaluation(source, "validation", 64)
    model = new_model(len(tokenizer)).train()

    def keep(log: dict[str, Any]) -> None:
        model.save_pretrained(options.out)
        tokenizer.save_pretrained(options.out)
        (options.out / "training.json").write_text(json.dumps(log, indent=1) + "\n")

    fit(model, windows, held_out, options, loss_of, keep, prediction_loss)


if __name__ == "__main__":
    main()
