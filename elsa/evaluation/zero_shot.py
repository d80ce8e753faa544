"""Zero-shot accuracy by lm-eval's own task definitions, on the hub's data or on a local mirror of it.

The only file that knows lm-eval. Scores are kept by content: the weights, the documents, the definition of the task and
the versions decide them. lm-eval's own cache is keyed by none of these and is never used.
"""

import hashlib
import json
import logging
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml
from datasets.exceptions import DatasetsError
from jinja2 import UndefinedError
from torch import nn

from elsa import hub
from elsa.data.windows import WindowReader
from elsa.errors import UserError, did_you_mean, require
from elsa.evaluation.base import Evaluation, Subject, standard_error
from elsa.files import content_hash, file_hash, known_hash, package_folder, read_json, write_atomically, write_json
from elsa.track.progress import progress

if TYPE_CHECKING:
    from lm_eval.api.task import Task

_log = logging.getLogger(__name__)
_SPLITS = ("train", "validation", "test")
_METRICS = ("acc", "acc_norm")


@dataclass(frozen=True, kw_only=True)
class ZeroShot(Evaluation):
    """`acc` and `acc_norm` with standard errors on each of `tasks`, and the average `acc` over them.

    `limit`: first documents of each task, null for all; a limited score says so. `mirror`: a folder with
    `<task>/<split>.jsonl` in the columns of the task's own data set; null takes the data from the hub. Splits that a
    mirror lacks are left out, and lm-eval scores on test, or else on validation.
    """

    tasks: list[str]
    limit: int | None = None
    num_fewshot: int = 0
    batch_size: int = 8
    mirror: str | None = None

    def __post_init__(self) -> None:
        require(bool(self.tasks), "tasks", "[]", "name at least one task, for example arc_easy")
        require(self.limit is None or self.limit >= 1, "limit", self.limit, "at least 1, or null for all documents")
        require(self.num_fewshot >= 0, "num_fewshot", self.num_fewshot, "0 for zero-shot, or more")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")

    def check(self) -> None:
        known = packaged_tasks()
        for task in self.tasks:
            require(task in known, "tasks", task, f"lm-eval has no such task; {did_you_mean(task, known)}")
            if self.mirror is not None:
                files = mirrored(Path(self.mirror), task)
                wanted = f"no {task}/<split>.jsonl there, with split one of {', '.join(_SPLITS)}"
                require(bool(files), "mirror", self.mirror, wanted)
        if self.mirror is None:
            require(hub.reachable(), "mirror", "null", "the hub cannot be reached; give a folder of task data")

    def identity(self, cache: Path) -> dict[str, Any]:
        protocol = {"limit": self.limit, "num_fewshot": self.num_fewshot, "batch_size": self.batch_size}
        tasks = {name: self._content(name, cache) for name in self.tasks}
        return {"zero_shot": protocol | {"tasks": tasks, "lm_eval": version("lm_eval")}}

    def _content(self, name: str, cache: Path) -> dict[str, Any]:
        """A task's definition and the mirror's files; the hub's data go by their name alone."""
        files = {} if self.mirror is None else mirrored(Path(self.mirror), name)
        documents = {split: known_hash(Path(file), cache) for split, file in files.items()}
        return {"definition": file_hash(packaged_tasks()[name]), "documents": documents}

    def fetch(self, mirror: Path) -> None:
        for name, task in load_tasks(self.tasks, None).items():
            for split in _SPLITS:
                theirs = getattr(task.config, "training_split" if split == "train" else f"{split}_split")
                if theirs is not None:
                    lines = "".join(json.dumps(row) + "\n" for row in task.dataset[theirs])
                    write_atomically(mirror / name / f"{split}.jsonl", partial(Path.write_text, data=lines))

    def prepare(self, reader: WindowReader) -> dict[str, "Task"]:
        """Load the tasks and look at their first documents."""
        if self.limit is not None:
            _log.info("zero-shot on the first %d documents of each task only: limited scores", self.limit)
        return load_tasks(self.tasks, None if self.mirror is None else Path(self.mirror))

    def evaluate(self, subject: Subject, prepared: dict[str, "Task"]) -> dict[str, dict[str, Any]]:
        weights = weights_hash(subject.model)
        found, items = {}, {}
        for name, task in progress(list(prepared.items()), "zero-shot", unit="task"):
            protocol = self._protocol(name, task)
            key = {"weights": weights, "dtype": str(subject.model.dtype)} | protocol
            path = subject.cache / "zero_shot" / f"{name}-{content_hash(key, 24)}.json"
            kept = read_json(path)
            if kept is None:
                kept = {"key": key} | self._score(subject, name, task, protocol)
                write_json(path, kept)
            found[name], items[name] = kept["scores"], kept["items"]
        average = sum(scores["acc"] for scores in found.values()) / len(found)
        dtype = str(subject.model.dtype).removeprefix("torch.")
        facts = {"average_acc": average, "limit": self.limit, "dtype": dtype, "lm_eval": version("lm_eval")}
        return {"zero_shot": facts | {"tasks": found, "items": items}}

    def _protocol(self, name: str, task: "Task") -> dict[str, Any]:
        documents = [task.eval_docs[i] for i in range(self._count(task))]
        text = json.dumps(documents, sort_keys=True, default=str)
        return {
            "task": name, "version": task.VERSION, "num_fewshot": self.num_fewshot, "limit": self.limit,
            "data_sha256": hashlib.sha256(text.encode()).hexdigest(), "definition": packaged_tasks()[name].read_text(),
            "lm_eval": version("lm_eval"), "transformers": version("transformers"), "torch": version("torch"),
        }  # fmt: skip

    def _count(self, task: "Task") -> int:
        return len(task.eval_docs) if self.limit is None else min(self.limit, len(task.eval_docs))

    def _score(self, subject: Subject, name: str, task: "Task", protocol: dict[str, Any]) -> dict[str, Any]:
        with _quiet():
            from lm_eval import simple_evaluate
            from lm_eval.models.huggingface import HFLM

            model = HFLM(pretrained=subject.model.eval(), tokenizer=subject.tokenizer, batch_size=self.batch_size)
            results = simple_evaluate(
                model, tasks=[task], num_fewshot=self.num_fewshot, limit=self.limit, log_samples=True,
                bootstrap_iters=0, task_manager=_no_tasks(),
            )  # fmt: skip
        scores = {"n": self._count(task)} | {key: protocol[key] for key in ("version", "num_fewshot", "data_sha256")}
        samples = sorted(results["samples"][name], key=lambda sample: sample["doc_id"])
        for metric in _METRICS:
            if f"{metric},none" in results["results"][name]:
                scores[metric] = results["results"][name][f"{metric},none"]
                scores[f"{metric}_stderr"] = standard_error([float(sample[metric]) for sample in samples])
        if "acc" not in scores:
            raise UserError(f"eval.tasks={name}: this task has no accuracy; it cannot be averaged with others")
        items = [float(sample["acc"]) for sample in samples]  # 0 or 1, or a share where several answers are right
        return {"scores": scores, "items": [int(item) if item in (0, 1) else item for item in items]}


def weights_hash(model: nn.Module) -> str:
    """SHA-256 of all parameters and buffers, names and dtypes included."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


@cache
def packaged_tasks() -> dict[str, Path]:
    """{name: its YAML} of every single task in lm-eval, without importing it."""
    root = package_folder("lm_eval") / "tasks"
    found: dict[str, Path] = {}
    for path in root.rglob("*.yaml"):
        match = re.search(r"^task: *([\w\-.]+) *$", path.read_text(errors="replace"), re.MULTILINE)
        if match:
            found.setdefault(match[1], path)
    return found


def mirrored(mirror: Path, task: str) -> dict[str, str]:
    """{split: file} of a task in a mirror."""
    return {split: str(p.resolve()) for split in _SPLITS if (p := mirror / task / f"{split}.jsonl").is_file()}


def load_tasks(names: list[str], mirror: Path | None) -> dict[str, "Task"]:
    """lm-eval's own tasks, on the mirror's files if there is one. Raises `UserError` for data that do not fit."""
    with _quiet(), tempfile.TemporaryDirectory(prefix="elsa-tasks-") as folder:
        for name in names:
            local = {} if mirror is None else _local_data(name, mirrored(mirror, name))
            content = {"include": str(packaged_tasks()[name]), "task": name} | local
            (Path(folder) / f"{name}.yaml").write_text(yaml.safe_dump(content))
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=folder, include_defaults=False)
        return {name: _loaded(manager, name, mirror) for name in names}


def _local_data(name: str, files: dict[str, str]) -> dict[str, Any]:
    """What sends a task's data set to local files. Splits without a file are null."""
    splits = {split: split if split in files else None for split in _SPLITS}
    if files.keys() & {"validation", "test"} == set():
        raise UserError(f"eval.mirror: {name} has neither validation.jsonl nor test.jsonl")
    return {
        "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files},
        "training_split": splits["train"], "validation_split": splits["validation"], "test_split": splits["test"],
        "fewshot_split": None,
    }  # fmt: skip


def _loaded(manager: Any, name: str, mirror: Path | None) -> "Task":
    place = f"{mirror / name}" if mirror else f"the data set of {name}"
    try:
        task = manager.load([name])["tasks"][name]
        first = task.eval_docs[0]
        task.doc_to_text(first), task.doc_to_choice(first), task.doc_to_target(first)
    except UndefinedError as error:
        raise UserError(f"eval.mirror: {place} lacks a column that the task reads: {error}") from error
    except KeyError as error:
        raise UserError(f"eval.mirror: {place} lacks the column {error} that the task reads") from error
    except (OSError, ValueError, TypeError, IndexError, DatasetsError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"eval.tasks={name}: {place} cannot be read: {reason}") from error
    return task


@cache
def _no_tasks() -> Any:
    """A task manager that does not read all of lm-eval's definitions, which takes 10 s."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """lm-eval and datasets without their notes and bars."""
    import datasets

    bars = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    for library in ("lm_eval", "datasets"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere, redirect_stderr(nowhere):
            warnings.simplefilter("ignore")
            yield
    finally:
        if not bars:
            datasets.enable_progress_bars()
