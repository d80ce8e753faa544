"""Token windows: documents are made into pieces of tokens in batches, and these packed into windows (`Packer`).

The result is a function of source, split, tokenizer, length, count and seed. It is cached under the hash of exactly
these, written once, and read back memory-mapped.

Shapes: N windows of L tokens (`windows_NL`).
"""

import copy
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property
from itertools import islice
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from elsa.data.packing import Packer
from elsa.data.scored import scored, token_ids
from elsa.data.sources import Source, TextSource
from elsa.errors import UserError, require
from elsa.files import content_hash, write_atomically
from elsa.track.progress import progress

DRAWS = ("even", "first")
_BATCH = 512  # documents a tokenizer call; its threads share one batch
_log = logging.getLogger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class WindowReader:
    """Cuts windows with one tokenizer, and keeps them in `cache`. `begin_with_bos`: as Gemma needs it.

    `vocabulary` and `positions`: how many token ids the model knows and how long a window it takes; others are refused.
    None: not known. `counts`: what was counted of the documents to train on, by "train[<windows>]".
    """

    tokenizer: PreTrainedTokenizerFast | None
    cache: Path
    begin_with_bos: bool = False
    vocabulary: int | None = None
    positions: int | None = None
    counts: dict[str, dict[str, int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        has_bos = self.tokenizer is None or self.tokenizer.bos_token_id is not None
        require(has_bos or not self.begin_with_bos, "model.begin_with_bos", "true", "the model's tokenizer has no BOS")

    @property
    def _needed(self) -> PreTrainedTokenizerFast:
        assert self.tokenizer is not None, "text is cut with a tokenizer"
        return self.tokenizer

    def training(self, source: Source, count: int, seed: int) -> torch.Tensor:
        """`count` windows of the train split, drawn without replacement (epoch by epoch) in an order set by `seed`.

        Returns int32 `windows_NL`. Raises `UserError` if the text is missing or shorter than a window, or has tokens
        that the model does not know.
        """
        return self._fitting(source.windows(self._cached, "train", count, seed), "train")

    def evaluation(
        self, source: Source, split: str, count: int | None, draw: str = "even", draw_seed: int = 0
    ) -> torch.Tensor:
        """`count` windows of a split in its order (None: all; fewer when the text ends). int32 `windows_NL`.

        `draw`: "even" takes one from each of `count` equal parts of the split, as `draw_seed` says; "first" the first.
        """
        taken = source.windows(self._cached, split, count if draw == "first" else None, None)
        if count is not None and count < len(taken):
            taken = taken[spread(len(taken), count, draw_seed)]
        return self._fitting(taken, split)

    def _fitting(self, windows_NL: torch.Tensor, split: str) -> torch.Tensor:
        length = windows_NL.shape[1]
        takes = f"the model takes windows up to {self.positions} tokens (the {split} split)"
        require(self.positions is None or length <= self.positions, "data.sequence_length", length, takes)
        if scored(windows_NL) == 0:
            raise UserError(f"data: no answer is in the {len(windows_NL)} windows of the {split} split")
        ids_NL = token_ids(windows_NL)
        low, high = int(ids_NL.min()), int(ids_NL.max())
        if low < 0 or (self.vocabulary is not None and high >= self.vocabulary):
            word = "" if self.tokenizer is None or low < 0 else f" ({self.tokenizer.convert_ids_to_tokens(high)!r})"
            raise UserError(
                f"model: the {split} split has the token {low if low < 0 else high}{word}, and the model's embedding "
                f"holds 0 to {(self.vocabulary or 2**31) - 1}; tokenizer and weights do not fit each other"
            )
        return windows_NL

    def _cached(self, source: TextSource, split: str, count: int | None, seed: int | None) -> torch.Tensor:
        packer = source.packer(self._plain, self._needed.bos_token_id if self.begin_with_bos else None)
        key = {
            "source": source.identity(split, self.cache), "tokenizer": self._tokenizer_hash(),
            "end": self._needed.eos_token_id, "begin": packer.bos, "length": source.sequence_length, "count": count,
            "seed": seed,
        } | packer.identity  # fmt: skip
        path = self.cache / "windows" / f"{content_hash(key, 24)}.safetensors"
        kept = _kept(path)
        if kept is None:
            windows = self._cut(source, packer, split, count, seed)
            _keep(path, windows, packer.counts)
            kept = _kept(path)
        assert kept is not None, "it was written just now"
        if kept.counts:
            _say(*source.said(split, kept.counts))
        if kept.counts and seed is not None:
            self.counts[f"{split}[{count}]"] = kept.counts
        return kept.windows_NL

    def _cut(self, source: TextSource, packer: Packer, split: str, count: int | None, seed: int | None) -> np.ndarray:
        need = None if count is None else count * packer.room
        windows = packer.windows(self._pieces(source, packer, split, need, seed), split)[:count]
        return windows if seed is None else np.random.default_rng([seed, 1]).permutation(windows)

    def _pieces(
        self, source: TextSource, packer: Packer, split: str, need: int | None, seed: int | None
    ) -> list[np.ndarray]:
        """Pieces of the documents, with at least `need` tokens unless the text ends; with a seed in as many epochs."""
        random = None if seed is None else np.random.default_rng(seed)
        pieces: list[np.ndarray] = []
        have = 0
        batches = _batches(source.drawn(split, random), _BATCH)
        for batch in progress(batches, "tokenise", unit="batch"):
            made = packer.pieces(batch)
            pieces += made
            have += sum(map(len, made))
            if need is not None and have >= need:
                break
        if random is None or need is None or not have:
            return pieces
        if have < need:
            _log.info(
                "the %s split has %d tokens, the budget takes %d: it repeats %.1f times", split, have, need, need / have
            )
        epochs = [pieces, *([pieces[i] for i in random.permutation(len(pieces))] for _ in range(have, need, have))]
        return [piece for epoch in epochs for piece in epoch]

    def _tokenizer_hash(self) -> str:
        return hashlib.sha256(self._plain.backend_tokenizer.to_str().encode()).hexdigest()

    @cached_property
    def _plain(self) -> PreTrainedTokenizerFast:
        """A copy without truncation and padding, which a tokenizer.json may have been saved with."""
        copied = copy.deepcopy(self._needed)
        copied.backend_tokenizer.no_truncation()
        copied.backend_tokenizer.no_padding()
        return copied


def _batches(each: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(each)
    while batch := list(islice(iterator, size)):
        yield batch


def spread(total: int, count: int, seed: int) -> torch.Tensor:
    """One index out of each of `count` equal parts of `total`, rising: every window is as likely as any other."""
    bounds = np.arange(count + 1) * total // count
    return torch.from_numpy(np.random.default_rng(seed).integers(bounds[:-1], bounds[1:]))


def windows_hash(windows_NL: torch.Tensor) -> str:
    """SHA-256 of the token ids: two runs saw the same data exactly if this is equal."""
    return hashlib.sha256(np.ascontiguousarray(windows_NL.numpy()).tobytes()).hexdigest()


class _Kept(NamedTuple):
    windows_NL: torch.Tensor
    counts: dict[str, int]


def _keep(path: Path, windows_NL: np.ndarray, counts: dict[str, int]) -> None:
    windows = torch.from_numpy(np.ascontiguousarray(windows_NL))
    about = {"sha256": windows_hash(windows), "counts": json.dumps(counts)}
    write_atomically(path, lambda temporary: save_file({"windows": windows}, temporary, about))


def _kept(path: Path) -> _Kept | None:
    """Windows that were kept before and are still what they were; None if there are none."""
    require(not path.is_dir(), "paths.cache", path, "a file of token windows is wanted there, and it is a folder")
    try:
        with safe_open(path, "pt") as file:
            windows: torch.Tensor = file.get_tensor("windows")
            about = file.metadata() or {}
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError):
        about = {}
    if not about or windows_hash(windows) != about.get("sha256"):
        _log.info("%s: broken, made anew", path)
        return None
    return _Kept(windows, json.loads(about.get("counts", "{}")))


@cache
def _say(level: int, line: str) -> None:
    """Once in a process, however often the windows are taken."""
    _log.log(level, "%s", line)
