"""Conversations: rendered by the model's own chat template, of which the assistant's answers alone are scored.

Shapes: N windows of L tokens (`windows_NL`).
"""

import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerFast
from transformers.utils.chat_template_utils import render_jinja_template

from elsa.data.formats import fault_of_text, kind_of
from elsa.data.packing import Document, Packer
from elsa.data.scored import as_context
from elsa.data.sources import Files, TextSource
from elsa.data.streams import HubStream
from elsa.errors import UserError, in_one_line, require

LOST = ("drop", "keep", "refuse")
_MARKS = re.compile(r"\{%-?\s*generation\s*-?%\}")
_TODAY = "{% macro strftime_now(format) %}26 Jul 2024{% endmacro %}"  # else windows would differ from day to day
_SHOWN = 40  # characters of a message

Messages = list[dict[str, Any]]
Spans = list[tuple[int, int]]  # of characters, from and up to


@dataclass(frozen=True, kw_only=True)
class ChatPacker(Packer):
    """Whole conversations side by side: one that no longer fits begins the next window.

    What is left of a window is filled with the beginning of the next conversation, as context: no padding. A
    conversation that is longer than a window is cut at its end; `lost` says what becomes of those that lose all of
    their answers by it, or have none: "drop" them, "keep" them as context, "refuse" to go on. `counts`: of
    conversations, those that were cut, and those without an answer.
    """

    lost: str

    def __post_init__(self) -> None:
        self.counts.update(conversations=0, cut=0, without_answer=0)

    @cached_property
    def _template(self) -> str:
        try:
            template: str = self.tokenizer.get_chat_template()
        except ValueError as error:
            raise UserError(
                "data: the model's tokenizer has no chat template, so it cannot render conversations; give the model "
                "that was trained on them, or put its chat_template.jinja beside tokenizer.json"
            ) from error
        return _TODAY + template if "strftime_now" in template else template

    @property
    def identity(self) -> dict[str, Any]:
        return {"template": self._template, "special": self.tokenizer.special_tokens_map, "lost": self.lost}

    def pieces(self, documents: Sequence[Document]) -> list[np.ndarray]:
        found = (self._piece(messages) for messages in documents)
        return [piece for piece in found if piece is not None]

    def _piece(self, messages: Messages) -> np.ndarray | None:
        """The tokens that fit a window, marked (`elsa.data.scored`); None for a conversation that is dropped."""
        ids, scored = self._marked(messages)
        tokens, ids, scored = len(ids), ids[: self.length], scored[: self.length]
        scored[:1] = False  # nothing of its own comes before it
        answered = bool(scored.any())
        self._count(conversations=1, cut=tokens > self.length, without_answer=not answered)
        if not answered and self.lost == "refuse":
            raise UserError(
                f"data.lost=refuse: {_named(messages)} has no answer in the first {self.length} of its {tokens} tokens"
            )
        return np.where(scored, ids, as_context(ids)) if answered or self.lost == "keep" else None

    def _count(self, **found: int) -> None:
        for name, number in found.items():
            self.counts[name] += number

    def _marked(self, messages: Messages) -> tuple[np.ndarray, np.ndarray]:
        """All tokens, int32, and which of them are the assistant's. A BOS that the model needs is put before them."""
        text, answers = (self._generated if _MARKS.search(self._template) else self._added)(messages)
        encoding = self.tokenizer.backend_tokenizer.encode(text, add_special_tokens=False)
        ids = encoding.ids
        scored = [any(low <= first < high for low, high in answers) for first, _ in encoding.offsets]
        if self.bos is not None and ids[:1] != [self.bos]:
            ids, scored = [self.bos, *ids], [False, *scored]
        return np.array(ids, np.int32), np.array(scored, bool)

    def _generated(self, messages: Messages) -> tuple[str, Spans]:
        """The rendered text, and what of it the template itself marks as generated."""
        given = [{key: value for key, value in message.items() if value is not None} for message in messages]
        special: dict[str, Any] = self.tokenizer.special_tokens_map
        with _explained(messages):
            rendered: Any = render_jinja_template(
                [given], chat_template=self._template, return_assistant_tokens_mask=True, **special
            )
        (text,), (spans,) = rendered
        return text, spans

    def _added(self, messages: Messages) -> tuple[str, Spans]:
        """The rendered text, and what of it each answer adds to the messages before it and the prompt for it."""
        whole, answers = self._rendered(messages), Spans()
        for number in (number for number, message in enumerate(messages) if message["role"] == "assistant"):
            asked = self._rendered(messages[:number], add_generation_prompt=True) if number else ""
            told = self._rendered(messages[: number + 1])
            if not (whole.startswith(told) and told.startswith(asked)):
                raise UserError(
                    f"data: the chat template renders message {number + 1} of {_named(messages)} otherwise after its "
                    "prompt, or before others, so answers cannot be told from context; mark them with {% generation %}"
                )
            answers.append((len(asked), len(told)))
        return whole, answers

    def _rendered(self, messages: Messages, add_generation_prompt: bool = False) -> str:
        with _explained(messages):
            text: Any = self.tokenizer.apply_chat_template(
                messages, chat_template=self._template, add_generation_prompt=add_generation_prompt, tokenize=False
            )
        return str(text)

    def windows(self, pieces: list[np.ndarray], split: str) -> np.ndarray:
        if not any((piece >= 0).any() for piece in pieces):
            number = self.counts["conversations"]
            raise UserError(
                f"data.sequence_length={self.length}: none of the {number:,} conversations of the {split} split has an "
                "answer (of the role assistant) within a window"
            )
        return np.stack(list(_packed(pieces, self.length)))


@contextmanager
def _explained(messages: Messages) -> Iterator[None]:
    try:
        yield
    except (TemplateError, TypeError, ValueError) as error:
        said = in_one_line(error, 200)
        raise UserError(f"data: the model's chat template does not take {_named(messages)}: {said}") from error


def _packed(pieces: list[np.ndarray], length: int) -> Iterator[np.ndarray]:
    """Windows of whole pieces, which are at most `length` tokens each."""
    held, room = list[np.ndarray](), length
    for piece in pieces:
        if len(piece) > room:
            yield np.concatenate([*held, _context(piece[:room])])
            held, room = [], length
        held.append(piece)
        room -= len(piece)
    yield np.concatenate([*held, _context(np.resize(np.concatenate(pieces[:length]), room))])  # from the start again


def _context(piece: np.ndarray) -> np.ndarray:
    return np.where(piece < 0, piece, as_context(piece))


def _named(messages: Messages) -> str:
    return f"the conversation that begins {messages[0]['content'][:_SHOWN]!r}"


def fault_of_messages(value: object) -> str:
    """What is wrong with the messages of a conversation, "" for nothing."""
    if not isinstance(value, list) or not value:
        return f"is {kind_of(value)}; a list of messages with role and content is wanted"
    for number, message in enumerate(value, 1):
        whole = isinstance(message, dict) and not any(fault_of_text(message.get(key)) for key in ("role", "content"))
        if not whole:
            return f"has no role and content, each a text, in message {number}"
    return ""


@dataclass(frozen=True, kw_only=True)
class Conversations(TextSource):
    """Rows of conversations, lists of messages {role, content}.

    `lost`: what becomes of those whose answers do not fit a window (`ChatPacker`). `most_cut`: the share of
    conversations that may be cut before the run warns.
    """

    lost: str = "drop"
    most_cut: float = 0.2

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.lost in LOST, "lost", self.lost, f"known: {', '.join(LOST)}")
        require(0 <= self.most_cut <= 1, "most_cut", self.most_cut, "a share, 0 to 1")

    def fault(self, value: object) -> str:
        return fault_of_messages(value)

    def packer(self, tokenizer: PreTrainedTokenizerFast, bos: int | None) -> ChatPacker:
        return ChatPacker(tokenizer=tokenizer, length=self.sequence_length, bos=bos, lost=self.lost)

    def said(self, split: str, counts: dict[str, int]) -> tuple[int, str]:
        every, cut, lost = (counts[name] for name in ("conversations", "cut", "without_answer"))
        become = {"drop": "dropped", "keep": "kept as context", "refuse": "refused"}[self.lost]
        line = (
            f"the {split} split: {every:,} conversations, {cut:,} cut at {self.sequence_length:,} tokens, "
            f"{lost:,} without an answer in these, {become}"
        )
        if cut <= self.most_cut * every:
            return logging.INFO, line
        return logging.WARNING, f"{line}; more are cut than data.most_cut={self.most_cut:g}: raise data.sequence_length"

    def identity(self, split: str, cache: Path) -> dict[str, Any]:
        of_rows = super().identity(split, cache)  # type: ignore[safe-super] # that of files or of the hub
        return of_rows | {"conversations": self.lost}


@dataclass(frozen=True, kw_only=True)
class Chat(Conversations, Files):
    """Conversations in local files: JSON lines, JSON or Parquet. They are held out whole, however few there are."""

    column: str = "messages"


@dataclass(frozen=True, kw_only=True)
class HubChat(Conversations, HubStream):
    """Conversations of a hub data set."""

    column: str = "messages"
