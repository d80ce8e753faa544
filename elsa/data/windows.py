"""Token windows: documents are tokenised in batches, packed end to end and cut, so that no token is thrown away.

The result is a function of source, split, tokenizer, length, count and seed. It is cached under the hash of exactly
these, written once, and read back memory-mapped.

Shapes: N windows of L tokens (`windows_NL`).
"""

import hashlib
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from elsa.data.sources import Source, TextSource
from elsa.errors import UserError, require
from elsa.files import content_hash, write_atomically
from elsa.track.progress import progress

DRAWS = ("even", "first")
_BATCH = 512  # documents a tokenizer call; its threads share one batch
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class WindowReader:
    """Cuts windows with one tokenizer, and keeps them in `cache`. `begin_with_bos`: as Gemma needs it.

    `vocabulary` and `positions`: how many token ids the model knows and how long a window it takes; others are refused.
    None: not known.
    """

    tokenizer: PreTrainedTokenizerFast | None
    cache: Path
    begin_with_bos: bool = False
    vocabulary: int | None = None
    positions: int | None = None

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
        low, high = int(windows_NL.min()), int(windows_NL.max())
        if low < 0 or (self.vocabulary is not None and high >= self.vocabulary):
            word = "" if self.tokenizer is None or low < 0 else f" ({self.tokenizer.convert_ids_to_tokens(high)!r})"
            raise UserError(
                f"model: the {split} split has the token {low if low < 0 else high}{word}, and the model's embedding "
                f"holds 0 to {(self.vocabulary or 2**31) - 1}; tokenizer and weights do not fit each other"
            )
        return windows_NL

    def _cached(self, source: TextSource, split: str, count: int | None, seed: int | None) -> torch.Tensor:
        key = {
            "source": source.identity(split, self.cache), "tokenizer": self._tokenizer_hash(),
            "end": self._needed.eos_token_id, "begin": self._needed.bos_token_id if self.begin_with_bos else None,
            "length": source.sequence_length, "count": count, "seed": seed,
        }  # fmt: skip
        path = self.cache / "windows" / f"{content_hash(key, 24)}.safetensors"
        windows = _kept(path)
        if windows is None:
            _keep(path, self._cut(source, split, count, seed))
            windows = _kept(path)
        assert windows is not None, "it was written just now"
        return windows

    def _cut(self, source: TextSource, split: str, count: int | None, seed: int | None) -> np.ndarray:
        body = source.sequence_length - self.begin_with_bos
        stream = self._packed(source.documents(split), split, None if count is None else count * body, seed)
        found = len(stream) // body
        if found == 0:
            raise UserError(
                f"data.sequence_length={source.sequence_length}: the {split} split has only {len(stream)} tokens"
            )
        windows = stream[: found * body].reshape(found, body)
        if self.begin_with_bos:
            bos = np.full((found, 1), self._needed.bos_token_id, np.int32)
            windows = np.concatenate([bos, windows], axis=1)
        return windows if seed is None else np.random.default_rng([seed, 1]).permutation(windows)

    def _packed(self, documents: list[str], split: str, need: int | None, seed: int | None) -> np.ndarray:
        """Tokens of the documents, end to end: at most `need`; with a seed exactly `need`, in as many epochs."""
        random = np.random.default_rng(seed)
        order = range(len(documents)) if seed is None else random.permutation(len(documents))
        encoded: list[np.ndarray] = []
        have = 0
        for start in progress(range(0, len(order), _BATCH), "tokenise", unit="batch"):
            batch = self._encode([documents[i] for i in order[start : start + _BATCH]])
            encoded += batch
            have += sum(map(len, batch))
            if need is not None and have >= need:
                break
        pieces = list(encoded)
        if seed is not None and have:
            assert need is not None, "a draw has a count"
            if have < need:
                _log.info(
                    "the %s split has %d tokens, the budget takes %d: it repeats %.1f times",
                    split,
                    have,
                    need,
                    need / have,
                )
            for _ in range(have, need, have):
                pieces += [encoded[i] for i in random.permutation(len(encoded))]
        return np.concatenate(pieces)[:need] if have else np.empty(0, np.int32)

    def _encode(self, texts: list[str]) -> list[np.ndarray]:
        end = [] if self._needed.eos_token_id is None else [self._needed.eos_token_id]
        encodings = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [np.array(encoding.ids + end, np.int32) for encoding in encodings]

    def _tokenizer_hash(self) -> str:
        return hashlib.sha256(self._backend.to_str().encode()).hexdigest()

    @cached_property
    def _backend(self) -> Tokenizer:
        """A copy without truncation and padding, which a tokenizer.json may have been saved with."""
        copied = Tokenizer.from_str(self._needed.backend_tokenizer.to_str())
        copied.no_truncation()
        copied.no_padding()
        return copied


def spread(total: int, count: int, seed: int) -> torch.Tensor:
    """One index out of each of `count` equal parts of `total`, rising: every window is as likely as any other."""
    bounds = np.arange(count + 1) * total // count
    return torch.from_numpy(np.random.default_rng(seed).integers(bounds[:-1], bounds[1:]))


def windows_hash(windows_NL: torch.Tensor) -> str:
    """SHA-256 of the token ids: two runs saw the same data exactly if this is equal."""
    return hashlib.sha256(np.ascontiguousarray(windows_NL.numpy()).tobytes()).hexdigest()


def _keep(path: Path, windows_NL: np.ndarray) -> None:
    windows = torch.from_numpy(np.ascontiguousarray(windows_NL))
    about = {"sha256": windows_hash(windows)}
    write_atomically(path, lambda temporary: save_file({"windows": windows}, temporary, about))


def _kept(path: Path) -> torch.Tensor | None:
    """Windows that were kept before and are still what they were; None if there are none."""
    require(not path.is_dir(), "paths.cache", path, "a file of token windows is wanted there, and it is a folder")
    try:
        with safe_open(path, "pt") as file:
            windows: torch.Tensor = file.get_tensor("windows")
            whole = windows_hash(windows) == (file.metadata() or {}).get("sha256")
    except FileNotFoundError:
        return None
    except (OSError, SafetensorError):
        whole = False
    if not whole:
        _log.info("%s: broken, made anew", path)
        return None
    return windows
