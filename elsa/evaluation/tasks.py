"""lm-eval's task definitions by name or group, and the data that they are asked on: the hub's, or a local mirror's.

With the evaluations that score them the only place that knows lm-eval.
"""

import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import yaml
from datasets.exceptions import DatasetsError
from jinja2 import UndefinedError

from elsa.errors import UserError, did_you_mean, in_one_line, require
from elsa.files import package_folder, remembered, write_json
from elsa.track.progress import working

if TYPE_CHECKING:
    from lm_eval.api.task import Task

SPLITS = ("train", "validation", "test")
_SCORED = {  # what lm-eval calls the way in which a task is scored, by the evaluation that takes it
    "zero_shot": ("multiple_choice", "loglikelihood", "loglikelihood_rolling"),
    "generation": ("generate_until",),
}
_log = logging.getLogger(__name__)


class Definition(TypedDict):
    """`members`: of a group or tag, by name; none for a task. `file`: its YAML, in lm-eval's folder of tasks.

    `num_fewshot`: examples that it shows if nothing else is asked for. `has_examples`: they stand in its YAML.
    """

    file: str | None
    output_type: str
    members: list[str]
    num_fewshot: int | None
    has_examples: bool


def definition_file(name: str) -> Path:
    """The YAML of a single task."""
    file = known_tasks()[name]["file"]
    assert file is not None, f"{name} is a task"
    return _root() / file


def num_fewshot_of(name: str, asked: int | None) -> int:
    """Examples that lm-eval shows in a task if `asked` for so many: none where the task says that it takes none."""
    own = known_tasks()[name]["num_fewshot"]
    return (own or 0) if asked is None or own == 0 else asked


def expanded(names: list[str], evaluation: str, kept: Path | None = None) -> list[str]:
    """The single tasks of these names: those of a group or tag in its place, each once.

    `evaluation`: "zero_shot" or "generation", which shall score them. `kept`: a folder where the index of lm-eval's
    13,000 tasks is remembered. Raises `UserError` for a name that lm-eval does not have, and for a task that this
    evaluation does not take.
    """
    known, found, waiting = known_tasks(kept), list[str](), list(reversed(names))
    while waiting:
        name = waiting.pop()
        require(name in known, "tasks", name, f"lm-eval has no such task or group; {did_you_mean(name, known)}")
        waiting += reversed(known[name]["members"])
        if known[name]["members"]:
            continue
        kind, taken = known[name]["output_type"], _SCORED[evaluation]
        hint = "".join(f"; eval={other} takes it" for other, kinds in _SCORED.items() if kind in kinds)
        wanted = f"it is scored by {kind}; this evaluation takes tasks of {', '.join(taken)}{hint}"
        require(kind in taken, "tasks", name, wanted)
        found.append(name)
    return list(dict.fromkeys(found))


def known_tasks(kept: Path | None = None) -> dict[str, Definition]:
    """All that lm-eval has by name. Its own index takes 15 s, so it is remembered in the folder `kept`."""
    if not _index:
        file = None if kept is None else kept / f"lm-eval-tasks-{version('lm_eval')}.json"
        known = None if file is None else remembered(file)
        _index.update(_asked() if known is None else known)
        if file is not None and known is None:
            write_json(file, _index)
    return _index


_index: dict[str, Definition] = {}  # of this process


def _asked() -> dict[str, Definition]:
    """What lm-eval says that it has."""
    with quiet():
        from lm_eval.tasks import TaskManager

        _log.info("reading the index of lm-eval's tasks, once, in about 15 s")
        with working("read the index"):
            entries = TaskManager().task_index
    return {name: _definition(entry) for name, entry in entries.items()}


def _definition(entry: Any) -> Definition:
    config, kind = entry.cfg or {}, entry.kind.name
    file = None if entry.yaml_path is None else str(entry.yaml_path.relative_to(_root()))
    members = {"GROUP": _named(config.get("task")), "TAG": sorted(entry.tags)}.get(kind, [])
    output = "its own Python class" if kind == "PY_TASK" else config.get("output_type", "generate_until")
    has_examples = bool((config.get("fewshot_config") or {}).get("samples"))
    return Definition(
        file=file, output_type=output, members=members, num_fewshot=config.get("num_fewshot"), has_examples=has_examples
    )


def _named(members: Any) -> list[str]:
    """The names in a group's list, which holds names, tasks with an alias, and groups of its own."""
    if isinstance(members, str):
        return [members]
    if isinstance(members, dict):
        return _named(members.get("task", []))
    return [name for each in members or [] for name in _named(each)]


def _root() -> Path:
    return package_folder("lm_eval") / "tasks"


def mirrored(mirror: Path, task: str) -> dict[str, str]:
    """{split: file} of a task in a mirror."""
    return {split: str(p.resolve()) for split in SPLITS if (p := mirror / task / f"{split}.jsonl").is_file()}


def check_mirror(mirror: Path, task: str, num_fewshot: int | None) -> None:
    """Raise `UserError` if the mirror cannot give the task's documents, and others for examples before them."""
    files = mirrored(mirror, task)
    scored = "test" if "test" in files else "validation"
    missing = f"no {task}/test.jsonl there, and no {task}/validation.jsonl; elsa fetch copies it from the hub"
    require(scored in files, "paths.mirror", mirror, missing)
    shots, others = num_fewshot_of(task, num_fewshot), files.keys() - {scored}
    wanted = f"a {task}/train.jsonl for the examples; {mirror} has {task}/{scored}.jsonl alone, which is scored"
    require(not shots or known_tasks()[task]["has_examples"] or bool(others), "num_fewshot", shots, wanted)
    for file in files.values():
        _check_rows(Path(file))


def _check_rows(file: Path) -> None:
    number = 0
    try:
        with file.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                require(isinstance(json.loads(line), dict), "paths.mirror", f"{file}:{number}", "no JSON object")
    except (ValueError, RecursionError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"paths.mirror={file}:{number}: no valid JSON ({error})") from error
    require(number > 0, "paths.mirror", file, "the file is empty")


def load_tasks(names: list[str], mirror: Path | None) -> dict[str, "Task"]:
    """lm-eval's own tasks, on the mirror's files if there is one. Raises `UserError` for data that do not fit."""
    with quiet(), tempfile.TemporaryDirectory(prefix="elsa-tasks-") as folder:
        for name in names:
            local = {} if mirror is None else _local_data(mirrored(mirror, name))
            content = {"include": str(definition_file(name)), "task": name} | local
            (Path(folder) / f"{name}.yaml").write_text(yaml.safe_dump(content))
        from lm_eval.tasks import TaskManager

        manager = TaskManager(include_path=folder, include_defaults=False)
        return {name: _loaded(manager, name, mirror) for name in names}


def _local_data(files: dict[str, str]) -> dict[str, Any]:
    """What sends a task's data set to local files. Splits without a file are null."""
    splits = {split: split if split in files else None for split in SPLITS}
    return {
        "dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files},
        "training_split": splits["train"], "validation_split": splits["validation"], "test_split": splits["test"],
        "fewshot_split": None,
    }  # fmt: skip


def _loaded(manager: Any, name: str, mirror: Path | None) -> "Task":
    """The task, once its first document could be asked; of a mirror, all of them."""
    place, number = f"{mirror / name}" if mirror else f"the data set of {name}", 0
    try:
        task: Task = manager.load([name])["tasks"][name]
        documents = task.eval_docs
        for number in range(len(documents) if mirror else 1):
            _ask(task, documents[number])
    except UndefinedError as error:
        raise UserError(f"paths.mirror: {place} lacks a column that the task reads: {error}") from error
    except KeyError as error:
        raise UserError(f"paths.mirror: {place} lacks the column {error} that the task reads") from error
    except (OSError, ValueError, TypeError, IndexError, AttributeError, ImportError, DatasetsError) as error:
        reason = in_one_line(error, 200) or type(error).__name__
        raise UserError(f"eval.tasks={name}: document {number + 1} of {place} cannot be read: {reason}") from error
    return task


def _ask(task: "Task", document: Any) -> None:
    task.doc_to_text(document), task.doc_to_target(document)
    if task.OUTPUT_TYPE == "multiple_choice":
        task.doc_to_choice(document)


@cache
def no_tasks() -> Any:
    """A task manager that does not read all of lm-eval's definitions, which takes 15 s."""
    from lm_eval.tasks import TaskManager

    return TaskManager(include_defaults=False)


@contextmanager
def quiet() -> Iterator[None]:
    """lm-eval, datasets and the git that they start without their notes and bars."""
    import datasets

    bars, shown = datasets.are_progress_bars_disabled(), os.dup(2)
    datasets.disable_progress_bars()
    for library in ("lm_eval", "datasets"):
        logging.getLogger(library).setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), Path(os.devnull).open("w") as nowhere:
            warnings.simplefilter("ignore")
            os.dup2(nowhere.fileno(), 2)
            yield
    finally:
        os.dup2(shown, 2)
        os.close(shown)
        if not bars:
            datasets.enable_progress_bars()
