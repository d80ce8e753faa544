"""What a model writes, by lm-eval's own tasks of generation: whether it is right, and whether it still reads well."""

import json
import logging
import math
from dataclasses import dataclass
from numbers import Real
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from transformers import PreTrainedTokenizerFast

from elsa.data.repetition import repetition_share
from elsa.data.template import as_turn
from elsa.data.windows import WindowReader
from elsa.errors import require
from elsa.evaluation.base import Subject, standard_error
from elsa.evaluation.harness import Harness, compact, documents_hash
from elsa.evaluation.tasks import num_fewshot_of, quiet

if TYPE_CHECKING:
    from lm_eval.api.task import Task

    from elsa.evaluation.answers import Answer, Listener

_LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # as tasks name it, lm-eval's order
_LIMIT = 256  # lm-eval's, where a task names none
_OF_A_BATCH = ("padding", "truncation")  # what a tokenizer remembers of its last call
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Generation(Harness):
    """Each metric of the tasks under each of its filters, and how the answers read.

    The accuracy, `acc`, is a task's first metric under its first filter that is a mean of numbers from 0 to 1: of
    gsm8k `exact_match,strict-match`; `accuracy` names it. Beside it stand means over the documents: `tokens`, the
    length of an answer; `repetition`, 1 − distinct 4-grams / 4-grams of its tokens; `cut`, whether it ended at
    `max_new_tokens` and not by itself.

    `max_new_tokens`: null for the task's own limit. `apply_chat_template`: ask in the tokenizer's chat template, the
    examples as turns of their own if `fewshot_as_multiturn`. `system_instruction`: said before everything else.
    """

    kind: ClassVar[str] = "generation"
    max_new_tokens: int | None = None
    apply_chat_template: bool = False
    fewshot_as_multiturn: bool = True
    system_instruction: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        counted = self.max_new_tokens is None or self.max_new_tokens >= 1
        require(counted, "max_new_tokens", self.max_new_tokens, "at least 1, or null for the task's own")

    def prepare(self, reader: WindowReader) -> dict[str, "Task"]:
        if self.apply_chat_template and reader.tokenizer is not None:
            as_turn(reader.tokenizer, "?", "eval.apply_chat_template")
        tasks = super().prepare(reader)
        for name, task in tasks.items():
            self._check_task(name, task, reader.positions)
        return tasks

    def _check_task(self, name: str, task: "Task", positions: int | None) -> None:
        require(not getattr(task, "UNSAFE_CODE", False), "eval.tasks", name, "it runs the code that a model writes")
        require(not getattr(task, "MULTIMODAL", False), "eval.tasks", name, "it shows more than text")
        limit = self._limit_of(task)
        wanted = f"{name} needs room for the prompt too, and the model takes {positions} tokens in all"
        require(positions is None or limit < positions, "eval.max_new_tokens", limit, wanted)

    @property
    def _settings(self) -> dict[str, Any]:
        return super()._settings | self._prompt | {"max_new_tokens": self.max_new_tokens}

    @property
    def _prompt(self) -> dict[str, Any]:
        """lm-eval's settings of how it is asked."""
        return {
            "apply_chat_template": self.apply_chat_template, "system_instruction": self.system_instruction,
            "fewshot_as_multiturn": self.apply_chat_template and self.fewshot_as_multiturn,
        }  # fmt: skip

    @property
    def _facts(self) -> dict[str, Any]:
        return {"settings": self._prompt | {"batch_size": self.batch_size}}

    def _limit_of(self, task: "Task") -> int:
        """In tokens."""
        own = task.config.generation_kwargs or {}
        named = [int(own[key]) for key in _LIMITS if own.get(key) is not None]
        return self.max_new_tokens or next(iter(named), _LIMIT)

    def _protocol(self, subject: Subject, name: str, task: "Task") -> dict[str, Any]:
        shots = num_fewshot_of(name, self.num_fewshot)
        examples = documents_hash(list(task.fewshot_docs())) if shots else None
        return super()._protocol(subject, name, task) | self._settings | {
            "num_fewshot": shots, "max_new_tokens": self._limit_of(task), "examples_sha256": examples,
            "tokenizer": _tokenizer_hash(subject.tokenizer), "generation_config": _config_hash(subject),
        }  # fmt: skip

    def _score(self, subject: Subject, name: str, task: "Task", protocol: dict[str, Any]) -> dict[str, Any]:
        model, results = self._written(subject, task)
        if model.cut_prompts:
            _log.warning("%s: %d prompts are too long for the model: lm-eval cut their start", name, model.cut_prompts)
        samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
        first = [sample for sample in samples if sample["filter"] == samples[0]["filter"]]
        reported, judged = _reported(results["results"][name]), _judged(samples)
        items = _read([model.answers.to(sample) for sample in first])
        known = ("version", "num_fewshot", "data_sha256", "max_new_tokens")
        scores = {"n": len(first)} | {key: protocol[key] for key in known} | {"cut_prompts": model.cut_prompts}
        scores |= {measure: fmean(values) for measure, values in items.items()}
        scores["metrics"] = {key: {"value": value} | _error(judged.get(key)) for key, value in reported.items()}
        if accuracy := _accuracy(reported, judged):
            items |= {"acc": judged[accuracy]}
            scores |= {"accuracy": accuracy, "acc": reported[accuracy], "acc_stderr": standard_error(items["acc"])}
        return {"scores": scores, "items": {measure: compact(values) for measure, values in items.items()}}

    def _written(self, subject: Subject, task: "Task") -> tuple["Listener", dict[str, Any]]:
        """Whoever knows the answers, and lm-eval's results."""
        with quiet():
            from elsa.evaluation.answers import Listener

            model = Listener(subject, self.batch_size)
            limit = None if self.max_new_tokens is None else {"max_gen_toks": self.max_new_tokens}
            return model, self._asked(model, task, gen_kwargs=limit, **self._prompt)


def _reported(results: dict[str, Any]) -> dict[str, float]:
    """{"<metric>,<filter>": the value that lm-eval gives a task}."""
    numbers = {key: float(value) for key, value in results.items() if "," in key and isinstance(value, Real)}
    return {key: value for key, value in numbers.items() if math.isfinite(value)}


def _judged(samples: list[dict[str, Any]]) -> dict[str, list[float]]:
    """{"<metric>,<filter>": that of each document}, for metrics that judge each by a number."""
    found: dict[str, list[Any]] = {}
    for sample in samples:
        for metric in sample["metrics"]:
            found.setdefault(f"{metric},{sample['filter']}", []).append(sample[metric])
    return {key: list(map(float, each)) for key, each in found.items() if all(isinstance(v, Real) for v in each)}


def _accuracy(reported: dict[str, float], judged: dict[str, list[float]]) -> str | None:
    """The first that is a mean of numbers from 0 to 1."""
    for key, values in judged.items():
        if all(0 <= value <= 1 for value in values) and math.isclose(fmean(values), reported.get(key, math.nan)):
            return key
    return None


def _error(values: list[float] | None) -> dict[str, float]:
    return {} if values is None else {"stderr": standard_error(values)}


def _read(written: "list[list[Answer]]") -> dict[str, list[float]]:
    """How the answers to each document read, by measure."""
    return {
        "tokens": [fmean(len(answer.ids) for answer in answers) for answers in written],
        "repetition": [fmean(repetition_share(answer.ids) for answer in answers) for answers in written],
        "cut": [fmean(answer.cut for answer in answers) for answers in written],
    }


def _tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Of all that decides the tokens of a prompt, and of its template."""
    parts = json.loads(tokenizer.backend_tokenizer.to_str())
    kept = {key: value for key, value in parts.items() if key not in _OF_A_BATCH}
    return documents_hash([kept, tokenizer.chat_template, tokenizer.bos_token, tokenizer.eos_token])


def _config_hash(subject: Subject) -> str:
    """Of the settings that the model's folder brings for generation."""
    config: Any = subject.model.generation_config
    return documents_hash([None if config is None else config.to_dict()])
