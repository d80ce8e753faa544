"""What all scores by lm-eval's tasks share: which tasks, on which data, dealt out to the ranks, and kept by content.

The weights, the documents, the definition of the task, the settings and the versions decide a score. lm-eval's own
cache is keyed by none of these and is never used.
"""

import hashlib
import json
import logging
import os
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import nn

from elsa import hub
from elsa.data.windows import WindowReader
from elsa.errors import require
from elsa.evaluation.base import Evaluation, Subject
from elsa.evaluation.tasks import (
    SPLITS,
    check_mirror,
    definition_file,
    expanded,
    load_tasks,
    mirrored,
    no_tasks,
)
from elsa.files import content_hash, file_hash, known_hash, remembered, write_atomically, write_json
from elsa.track.progress import progress, working

if TYPE_CHECKING:
    from lm_eval.api.model import LM
    from lm_eval.api.task import Task

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Harness(Evaluation):
    """Scores of one `kind` on `tasks` (names, groups or tags of lm-eval).

    `limit`: first documents of each task, null for all; a limited score says so. `num_fewshot`: null for the task's
    own. `mirror`: a folder with `<task>/<split>.jsonl` in the columns of the task's own data set; null takes the data
    from the hub. Splits that a mirror lacks are left out, and lm-eval scores on test, or else on validation. `cache`:
    where the index of lm-eval's tasks is remembered.
    """

    kind: ClassVar[str]
    tasks: list[str]
    limit: int | None = None
    num_fewshot: int | None = None
    batch_size: int = 8
    mirror: str | None = None
    cache: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.tasks), "tasks", "[]", "name at least one task of lm-eval")
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "at least 1, or null for all documents")
        require(
            self.num_fewshot is None or self.num_fewshot >= 0, "num_fewshot", self.num_fewshot, "0 or more examples"
        )
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")

    @abstractmethod
    def _score(self, subject: Subject, name: str, task: "Task", protocol: dict[str, Any]) -> dict[str, Any]:
        """{"scores": of the task, "items": what a document contributes to them, None if that is nothing}."""

    def check(self) -> None:
        for task in self._single:
            if self.mirror is not None:
                check_mirror(Path(self.mirror), task, self.num_fewshot)
        if self.mirror is None:
            require(hub.reachable(), "paths.mirror", "null", "the hub cannot be reached; give a folder of task data")

    def identity(self, cache: Path) -> dict[str, Any]:
        tasks = {name: self._content(name, cache) for name in self._single}
        return {self.kind: self._settings | {"tasks": tasks, "lm_eval": version("lm_eval")}}

    def fetch(self, mirror: Path) -> None:
        for name, task in load_tasks(self._single, None).items():
            for split in SPLITS:
                theirs = getattr(task.config, "training_split" if split == "train" else f"{split}_split")
                if theirs is not None:
                    lines = "".join(json.dumps(row) + "\n" for row in task.dataset[theirs])
                    write_atomically(mirror / name / f"{split}.jsonl", partial(Path.write_text, data=lines))

    def prepare(self, reader: WindowReader) -> dict[str, "Task"]:
        """Load the tasks and look at their first documents."""
        if self.limit is not None:
            _log.info("%s on the first %d documents of each task only: limited scores", self._title, self.limit)
        with working("load the tasks"):
            return load_tasks(self._single, None if self.mirror is None else Path(self.mirror))

    def evaluate(self, subject: Subject, prepared: dict[str, "Task"]) -> dict[str, dict[str, Any]]:
        with working("hash the weights"):
            weights = weights_hash(subject.model)
        dealt = _dealt({name: self._count(task) for name, task in prepared.items()}, subject.ranks.size)
        mine = {
            name: self._kept_or_scored(subject, name, prepared[name], weights)
            for name in progress(dealt[subject.ranks.rank], self._title, unit="task")
        }
        of_all = {name: kept for some in subject.ranks.gather(mine) for name, kept in some.items()}
        found = {name: of_all[name]["scores"] for name in prepared}
        items = {name: of_all[name]["items"] for name in prepared if of_all[name]["items"] is not None}
        accuracies = [scores["acc"] for scores in found.values() if "acc" in scores]
        average = sum(accuracies) / len(accuracies) if accuracies else None
        dtype = str(subject.model.dtype).removeprefix("torch.")
        facts = {"average_acc": average, "limit": self.limit, "dtype": dtype, "lm_eval": version("lm_eval")}
        return {self.kind: facts | self._facts | {"tasks": found, "items": items}}

    @property
    def _settings(self) -> dict[str, Any]:
        """Those that may change a score."""
        return {"limit": self.limit, "num_fewshot": self.num_fewshot, "batch_size": self.batch_size}

    @property
    def _facts(self) -> dict[str, Any]:
        """What else the scores say of all tasks together."""
        return {}

    @property
    def _title(self) -> str:
        return self.kind.replace("_", "-")

    @property
    def _single(self) -> list[str]:
        """The tasks without groups."""
        return expanded(self.tasks, self.kind, None if self.cache is None else Path(self.cache))

    def _content(self, name: str, cache: Path) -> dict[str, Any]:
        """A task's definition and the mirror's files; the hub's data go by their name alone."""
        files = {} if self.mirror is None else mirrored(Path(self.mirror), name)
        documents = {split: known_hash(Path(file), cache) for split, file in files.items()}
        return {"definition": file_hash(definition_file(name)), "documents": documents}

    def _count(self, task: "Task") -> int:
        return len(task.eval_docs) if self.limit is None else min(self.limit, len(task.eval_docs))

    def _kept_or_scored(self, subject: Subject, name: str, task: "Task", weights: str) -> dict[str, Any]:
        protocol = self._protocol(subject, name, task)
        key = {"weights": weights, "dtype": str(subject.model.dtype)} | protocol
        path = subject.cache / self.kind / f"{name}-{content_hash(key, 24)}.json"
        kept = remembered(path)
        if kept is None:
            kept = {"key": key} | self._score(subject, name, task, protocol)
            write_json(path, kept)
        return kept

    def _protocol(self, subject: Subject, name: str, task: "Task") -> dict[str, Any]:
        """What decides the scores of given weights on a task."""
        documents = [task.eval_docs[i] for i in range(self._count(task))]
        return {
            "task": name, "version": task.VERSION, "num_fewshot": self.num_fewshot, "limit": self.limit,
            "data_sha256": documents_hash(documents), "definition": definition_file(name).read_text(),
            "lm_eval": version("lm_eval"), "transformers": version("transformers"), "torch": version("torch"),
        }  # fmt: skip

    def _asked(self, model: "LM", task: "Task", **options: Any) -> dict[str, Any]:
        """lm-eval's results. `options`: of its `simple_evaluate`."""
        from lm_eval import simple_evaluate

        with _no_rank():
            results: dict[str, Any] = simple_evaluate(
                model, tasks=[task], num_fewshot=self.num_fewshot, limit=self.limit, log_samples=True,
                bootstrap_iters=0, task_manager=no_tasks(), **options,
            )  # fmt: skip
        return results


def documents_hash(documents: list[Any]) -> str:
    """SHA-256 of documents as lm-eval has them."""
    return hashlib.sha256(json.dumps(documents, sort_keys=True, default=str).encode()).hexdigest()


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, names and dtypes included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def compact(values: list[float]) -> list[float]:
    """Whole numbers as such, for a record that is short."""
    return [int(value) if value == int(value) else value for value in values]


def _dealt(counts: dict[str, int], ranks: int) -> list[list[str]]:
    """The tasks of each rank: the largest first, each to the rank that has fewest documents so far."""
    dealt: list[list[str]] = [[] for _ in range(ranks)]
    documents = [0] * ranks
    for name in sorted(counts, key=lambda each: -counts[each]):
        rank = documents.index(min(documents))
        dealt[rank].append(name)
        documents[rank] += counts[name]
    return dealt


@contextmanager
def _no_rank() -> Iterator[None]:
    """lm-eval gives no results in a process whose LOCAL_RANK is not 0."""
    rank = os.environ.pop("LOCAL_RANK", None)
    try:
        yield
    finally:
        if rank is not None:
            os.environ["LOCAL_RANK"] = rank
