"""Token windows: documents are tokenised in batches, packed end to end and cut, so that no token is thrown away.

The result is a function of source, split, tokenizer, length, count and seed. It is cached under the hash of exactly
these, written once, and read back memory-mapped.

Shapes: N windows of L tokens (`windows_NL`).
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from elsa.data.sources import Source, TextSource
from elsa.errors import UserError
from elsa.files import content_hash, write_atomically
from elsa.track.progress import progress

_BATCH = 512  # documents a tokenizer call; its threads share one batch


@dataclass(frozen=True, kw_only=True)
class WindowReader:
    """Cuts windows with one tokenizer, and keeps them in `cache`. `begin_with_bos`: as Gemma needs it."""

    tokenizer: PreTrainedTokenizerFast | None
    cache: Path
    begin_with_bos: bool = False

    @property
    def _needed(self) -> PreTrainedTokenizerFast:
        assert self.tokenizer is not None, "text is cut with a tokenizer"
        return self.tokenizer

    def training(self, source: Source, count: int, seed: int) -> torch.Tensor:
        """`count` windows of the train split, drawn without replacement (epoch by epoch) in an order set by `seed`.

        Returns int32 `windows_NL`. Raises `UserError` if the text is missing or shorter than a window.
        """
        return source.windows(self._cached, "train", count, seed)

    def evaluation(self, source: Source, split: str, count: int | None) -> torch.Tensor:
        """The first `count` windows of a split in their order (null: all; fewer when the text ends). int32."""
        return source.windows(self._cached, split, count, None)

    def _cached(self, source: TextSource, split: str, count: int | None, seed: int | None) -> torch.Tensor:
        key = {
            "source": source.identity(split, self.cache), "tokenizer": self._tokenizer_hash(),
            "end": self._needed.eos_token_id, "begin": self._needed.bos_token_id if self.begin_with_bos else None,
            "length": source.sequence_length, "count": count, "seed": seed,
        }  # fmt: skip
        path = self.cache / "windows" / f"{content_hash(key, 24)}.npy"
        if not path.is_file():
            windows = self._cut(source, split, count, seed)
            write_atomically(path, lambda temporary: np.save(temporary, windows))
        return torch.from_numpy(np.load(path, mmap_mode="c"))

    def _cut(self, source: TextSource, split: str, count: int | None, seed: int | None) -> np.ndarray:
        body = source.sequence_length - self.begin_with_bos
        stream = self._packed(source.documents(split), None if count is None else count * body, seed)
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

    def _packed(self, documents: list[str], need: int | None, seed: int | None) -> np.ndarray:
        """Tokens of the documents, end to end: at most `need`; with a seed exactly `need`, in as many epochs."""
        random = np.random.default_rng(seed)
        order = range(len(documents)) if seed is None else random.permutation(len(documents))
        encoded: list[np.ndarray] = []
        have = 0
        for start in progress(range(0, len(order), _BATCH), "tokenise", unit="batch"):
            encoded += self._encode([documents[i] for i in order[start : start + _BATCH]])
            have = sum(map(len, encoded))
            if need is not None and have >= need:
                break
        pieces = list(encoded)
        if seed is not None and have:
            assert need is not None, "a draw has a count"
            while sum(map(len, pieces)) < need:
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


def windows_hash(windows_NL: torch.Tensor) -> str:
    """SHA-256 of the token ids: two runs saw the same data exactly if this is equal."""
    return hashlib.sha256(np.ascontiguousarray(windows_NL.numpy()).tobytes()).hexdigest()
