"""From documents to windows: each document becomes a piece of tokens, and pieces are packed into windows.

Shapes: N windows of L tokens (`windows_NL`).
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from elsa.errors import UserError

Document = Any  # a text, or the messages of a conversation


@dataclass(frozen=True, kw_only=True)
class Packer(ABC):
    """`tokenizer`: without truncation and padding. `bos`: what every window begins with; None for nothing.

    `counts`: what there is to say about the documents that became pieces.
    """

    tokenizer: PreTrainedTokenizerFast
    length: int
    bos: int | None = None
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the windows beside documents, tokenizer and length, as JSON."""
        return {}

    @property
    def room(self) -> int:
        """Tokens of pieces that a window takes at most."""
        return self.length

    @abstractmethod
    def pieces(self, documents: Sequence[Document]) -> list[np.ndarray]:
        """int32 tokens of the documents, in their order; those that are left out have none."""

    @abstractmethod
    def windows(self, pieces: list[np.ndarray], split: str) -> np.ndarray:
        """int32 `windows_NL` of pieces in their order. Raises `UserError` if they do not give one."""


class TextPacker(Packer):
    """Documents end to end, each closed by the end-of-text token, and cut: no token but those at the end is lost."""

    @property
    def room(self) -> int:
        return self.length - (self.bos is not None)

    def pieces(self, documents: Sequence[Document]) -> list[np.ndarray]:
        end = [] if self.tokenizer.eos_token_id is None else [self.tokenizer.eos_token_id]
        encodings = self.tokenizer.backend_tokenizer.encode_batch_fast(documents, add_special_tokens=False)
        return [np.array(encoding.ids + end, np.int32) for encoding in encodings]

    def windows(self, pieces: list[np.ndarray], split: str) -> np.ndarray:
        tokens = np.concatenate([np.empty(0, np.int32), *pieces])
        found = len(tokens) // self.room
        if found == 0:
            raise UserError(f"data.sequence_length={self.length}: the {split} split has only {len(tokens)} tokens")
        windows = tokens[: found * self.room].reshape(found, self.room)
        if self.bos is None:
            return windows
        return np.concatenate([np.full((found, 1), self.bos, np.int32), windows], axis=1)
