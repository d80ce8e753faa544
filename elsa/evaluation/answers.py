"""The tokens of the answers that a model writes for lm-eval, which hands on their text alone."""

from bisect import bisect_left
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import Any

import torch
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerFast

from elsa.evaluation.base import Subject


@dataclass(frozen=True)
class Answer:
    """`ids`: the tokens that were generated for it. `cut`: it ended at their limit, by no end mark or stop."""

    ids: list[int]
    cut: bool


class Answers:
    """By prompt, in the order in which they were asked for. It stands in the place of lm-eval's cache of requests,
    which is told of each answer after the model has written a batch.

    `ends`: the ids of end marks.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, ends: set[int]):
        self._tokenizer, self._ends = tokenizer, ends
        self._rows: deque[tuple[list[int], int]] = deque()
        self._of: defaultdict[str, deque[Answer]] = defaultdict(deque)

    def wrote(self, rows: list[list[int]], limit: int) -> None:
        """The new tokens of a batch, at most `limit` each."""
        self._rows.extend((row, limit) for row in rows)

    def add_partial(self, attr: str, req: tuple[str, Any], res: str) -> None:
        """lm-eval's own call: the next row, on the prompt `req[0]`, was read as the text `res`."""
        self._of[req[0]].append(self._read(*self._rows.popleft(), res))

    def to(self, sample: dict[str, Any]) -> list[Answer]:
        """Those to the document of a sample of lm-eval, each given out once."""
        (prompt, _), *_ = sample["arguments"]
        return [self._of[prompt].popleft() for _ in sample["resps"][0]]

    def _read(self, row: list[int], limit: int, text: str) -> Answer:
        """A row goes on behind its end until the whole batch has ended: of these tokens none is the answer's."""
        end = next((place for place, token in enumerate(row) if token in self._ends), None)
        if self._decoded(row[:end]) == text:
            return Answer(row[:end], cut=end is None and len(row) >= limit)

        def holds_all(count: int) -> bool:
            return self._decoded(row[:count]).startswith(text)

        return Answer(row[: bisect_left(range(len(row)), True, key=holds_all)], cut=False)

    def _decoded(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=True))


class Listener(HFLM):  # type: ignore[misc] # lm-eval is not typed
    """lm-eval's model of transformers, with the `answers` that it wrote.

    `cut_prompts`: how many were longer than the model can take beside an answer, so that lm-eval cut their beginning.
    """

    def __init__(self, subject: Subject, batch_size: int):
        super().__init__(pretrained=subject.model.eval(), tokenizer=subject.tokenizer, batch_size=batch_size)
        self.cache_hook = self.answers = Answers(subject.tokenizer, end_marks(subject))
        self.cut_prompts = 0

    def tok_batch_encode(self, strings: list[str], left_truncate_len: int | None = None, **options: Any) -> Any:
        if left_truncate_len is not None:
            self.cut_prompts += sum(len(self.tok_encode(prompt)) > left_truncate_len for prompt in strings)
        return super().tok_batch_encode(strings, left_truncate_len=left_truncate_len, **options)

    def _model_generate(self, context: torch.Tensor, max_length: int, **options: Any) -> torch.Tensor:
        found_BL: torch.Tensor = super()._model_generate(context=context, max_length=max_length, **options)
        start = context.shape[1]
        self.answers.wrote(found_BL[:, start:].tolist(), max_length - start)
        return found_BL


def end_marks(subject: Subject) -> set[int]:
    """The model's own and the tokenizer's."""
    named: Any = getattr(subject.model.generation_config, "eos_token_id", None)
    own = named if isinstance(named, (list, tuple)) else [named]
    return {end for end in (*own, subject.tokenizer.eos_token_id) if end is not None}
