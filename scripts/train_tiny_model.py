"""Train the embedded model `tiny` from scratch on the Python standard library's sources.

A Llama of 2.8 M parameters with a byte-level BPE of 2,048 words. Training goes on until the validation loss is flat:
the learning rate is held while the loss falls, and decays to zero at the end. Run: python scripts/train_tiny_model.py
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from elsa.data.sources import Stdlib
from elsa.data.windows import WindowReader

END = "<|endoftext|>"
LENGTH = 256

Loss = Callable[[nn.Module, torch.Tensor], torch.Tensor]  # of a model on windows of token ids


def train_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """A byte-level BPE of 2,048 words, one of them the end-of-text mark."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=2048, special_tokens=[END], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END)


def new_model(vocabulary: int) -> LlamaForCausalLM:
    """Hidden 192, 6 blocks, 3 heads that share one for keys and values, MLP 512, embeddings tied."""
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=192, intermediate_size=512, num_hidden_layers=6, num_attention_heads=3,
        num_key_value_heads=1, max_position_embeddings=1024, tie_word_embeddings=True, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def next_token_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of logits [windows, tokens, words], fp32."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), ids[:, 1:].flatten())


def loss_of(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(ids, use_cache=False).logits
    return next_token_loss(logits, ids)


@torch.no_grad()
def validation_loss(model: nn.Module, windows: torch.Tensor, loss_of: Loss) -> float:
    model.eval()
    losses = [loss_of(model, batch.long()).item() for batch in windows.split(16)]
    model.train()
    return sum(losses) / len(losses)


def fit(
    model: nn.Module,
    windows: torch.Tensor,
    held_out: torch.Tensor,
    options: argparse.Namespace,
    loss_of: Loss,
    keep: Callable[[dict[str, Any]], None],
    validate_by: Loss | None = None,
) -> None:
    """AdamW; `keep` gets the curve of the validation loss so far, every 500 steps and at the end."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=options.learning_rate, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    start = time.perf_counter()
    history = []
    for step, ids in enumerate(windows.split(options.batch), 1):
        rate = min(1.0, step / 200, (options.steps - step) / (options.decay * options.steps))
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * rate
        loss_of(model, ids.long()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 500 == 0 or step == options.steps:
            loss = validation_loss(model, held_out, validate_by or loss_of)
            history.append({"step": step, "validation_loss": round(loss, 4), "learning_rate": rate})
            seconds = time.perf_counter() - start
            print(f"{step:6d}  perplexity {math.exp(loss):7.3f}  {seconds:6.0f} s", flush=True)
            keep({"options": vars(options) | {"out": None}, "history": history})


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path, log: dict[str, Any]) -> None:
    """bf16 weights, tokenizer and the validation curve."""
    copy = LlamaForCausalLM(model.config).to(torch.bfloat16)  # type: ignore[arg-type]  # wrapped without its own `self`
    copy.load_state_dict(model.state_dict())
    copy.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(log, indent=1) + "\n")


def options_of(description: str | None, **defaults: Any) -> argparse.Namespace:
    """What the command line says of a training."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--steps", type=int)
    parser.add_argument("--decay", type=float, help="share of the steps in which the rate falls to 0")
    parser.add_argument("--batch", type=int, help=f"windows of {LENGTH} tokens")
    parser.add_argument("--learning-rate", type=float)
    parser.add_argument("--out", type=Path)
    parser.set_defaults(**defaults)
    return parser.parse_args()


def main() -> None:
    options = options_of(__doc__, steps=15000, decay=0.3, batch=8, learning_rate=2e-3, out=Path("elsa/model/tiny"))

    torch.manual_seed(0)
    source = Stdlib(sequence_length=LENGTH)
    tokenizer = train_tokenizer(source.documents("train"))
    reader = WindowReader(tokenizer=tokenizer, cache=Path("outputs/cache"))
    windows = reader.training(source, options.steps * options.batch, seed=0)
    held_out = reader.evaluation(source, "validation", 256)
    model = new_model(len(tokenizer)).train()
    fit(model, windows, held_out, options, loss_of, lambda log: save(model, tokenizer, options.out, log))


if __name__ == "__main__":
    main()
