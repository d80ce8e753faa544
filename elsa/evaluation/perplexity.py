"""Perplexity on held-out token windows.

Shapes: N windows of L tokens (`windows_NL`).
"""

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from elsa.data.scored import next_tokens, scored, token_ids
from elsa.data.sources import SPLITS, Source
from elsa.data.windows import DRAWS, WindowReader, windows_hash
from elsa.distributed.ranks import ONE, Ranks
from elsa.errors import UserError, require, require_name, under
from elsa.evaluation.base import Evaluation, Subject
from elsa.track.progress import progress

AUTOCASTS = ("bfloat16", "none", "tensorfloat32")
_TOKENS_A_BATCH = 2048
_LARGEST_EXPONENT = math.log(sys.float_info.max)


@dataclass(frozen=True, kw_only=True)
class Perplexity(Evaluation):
    """exp of the mean next-token loss over `windows` non-overlapping windows of each of the named `sets`.

    Of conversations the answers alone are scored.

    `draw`: "even" spreads the windows over the whole split, one drawn by `draw_seed` from each of as many equal parts;
    "first" takes the first ones, as published numbers on C4 do.
    `formula`: "standard" divides by the scored targets, L − 1 a window (as Wanda and SparseGPT report it); "official"
    divides by L, as the Elsa reference code does, which reads slightly lower. `autocast`: "none" computes in the
    weights' dtype, "bfloat16" and "tensorfloat32" let a GPU multiply fp32 matrices in these, several times faster; the
    record says which it was.
    """

    sets: dict[str, Source]
    split: str = "test"
    windows: int | None = 128
    draw: str = "even"
    draw_seed: int = 0
    formula: str = "standard"
    autocast: str = "none"

    def __post_init__(self) -> None:
        require(bool(self.sets), "sets", "{}", "name at least one data set")
        for name in self.sets:
            require_name("sets", name)
        require(self.split in SPLITS, "split", self.split, f"known: {', '.join(SPLITS)}")
        require(self.windows is None or self.windows >= 1, "windows", self.windows, "at least 1, or null for all")
        require(self.draw in DRAWS, "draw", self.draw, f"known: {', '.join(DRAWS)}")
        require(self.draw_seed >= 0, "draw_seed", self.draw_seed, "0 or more")
        require(self.formula in ("standard", "official"), "formula", self.formula, "known: standard, official")
        require(self.autocast in AUTOCASTS, "autocast", self.autocast, f"known: {', '.join(AUTOCASTS)}")

    def check(self) -> None:
        for name, source in self.sets.items():
            with under(f"sets.{name}"):
                source.check(self.split)

    def identity(self, cache: Path) -> dict[str, Any]:
        protocol = {"split": self.split, "windows": self.windows, "formula": self.formula, "autocast": self.autocast}
        protocol |= self._drawn
        sets = {n: each.identity(self.split, cache) | {"length": each.length} for n, each in self.sets.items()}
        return {"perplexity": protocol | {"sets": sets}}

    def fetch(self, mirror: Path) -> None:
        self.check()  # gets the files

    def prepare(self, reader: WindowReader) -> dict[str, torch.Tensor]:
        """The windows of every set."""
        return {
            name: reader.evaluation(source, self.split, self.windows, **self._drawn)
            for name, source in self.sets.items()
        }

    @property
    def _drawn(self) -> dict[str, Any]:
        """How windows were chosen, where they were: all of a split are the same in every way."""
        if self.windows is None:
            return {}
        return {"draw": self.draw} | ({"draw_seed": self.draw_seed} if self.draw == "even" else {})

    def evaluate(self, subject: Subject, prepared: dict[str, torch.Tensor]) -> dict[str, dict[str, Any]]:
        results = {}
        for name, windows in prepared.items():
            loss = mean_loss(subject.model, windows, self.autocast, subject.ranks)
            if not math.isfinite(loss):
                raise UserError(
                    f"eval.sets.{name}: the model's loss is {loss}: its logits hold NaN or infinity; try "
                    "model.dtype=float32, and check the model"
                )
            count, length = windows.shape
            if self.formula == "official":
                loss *= (length - 1) / length
            results[name] = {
                "perplexity": _exp(loss), "loss": loss, "windows": count, "length": length,
                "targets": scored(windows), "split": self.split, "formula": self.formula,
                "autocast": self.autocast, "data_sha256": windows_hash(windows), **self._drawn,
            }  # fmt: skip
        return {"perplexity": results}


def _exp(loss: float) -> float:
    """The perplexity of a loss in nats: infinite where fp64 has no number for it."""
    return math.exp(loss) if loss < _LARGEST_EXPONENT else math.inf


@contextmanager
def _computing_in(autocast: str, device: torch.device) -> Iterator[None]:
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=autocast == "bfloat16"):
        before = torch.backends.cuda.matmul.allow_tf32
        torch.backends.cuda.matmul.allow_tf32 = autocast == "tensorfloat32"
        try:
            yield
        finally:
            torch.backends.cuda.matmul.allow_tf32 = before


@torch.no_grad()
def mean_loss(model: nn.Module, windows_NL: torch.Tensor, autocast: str = "none", ranks: Ranks = ONE) -> float:
    """Mean next-token cross-entropy in nats over all scored targets, summed in fp64.

    Batches are dealt out to the ranks, each with all of the model, and their losses added in the order of the batches:
    the same bits on any number of ranks.
    """
    model.eval()
    device = next(model.parameters()).device
    batches = windows_NL.split(max(1, _TOKENS_A_BATCH // windows_NL.shape[1]))
    losses: dict[int, float] = {}
    for number in progress(ranks.share_of(len(batches)), "evaluate", unit="batch"):
        batch = batches[number].to(device, torch.long)
        with _computing_in(autocast, device):
            logits = model(input_ids=token_ids(batch), use_cache=False).logits
        loss = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), next_tokens(batch), reduction="sum")
        losses[number] = loss.double().item()
    of_all = {number: loss for some in ranks.gather(losses) for number, loss in some.items()}
    total = sum(of_all[number] for number in range(len(batches)))
    return total / scored(windows_NL)
