"""`manifest.json`: the cells of a sweep, what became of each and where its run lies. One process writes it."""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

from filelock import FileLock, Timeout
from pydantic import TypeAdapter

from elsa.errors import UserError
from elsa.files import explained, make_folder, read_json, remove_leftovers, write_json

State = Literal["waiting", "running", "done", "failed"]
STATES: tuple[State, ...] = get_args(State)


@dataclass
class Cell:
    """One run of a sweep.

    `label`: its name in the sweep. `overrides`: what `elsa` is called with. `folder`: of its run. `evaluation`: the key
    of its scores in the record, or the beginning of one. `attempts`: how often a process was started for it. `seconds`:
    those of the last one. `changed`: overrides of a second attempt with less memory.
    """

    number: int
    label: str
    overrides: list[str]
    folder: str
    evaluation: str = ""
    state: State = "waiting"
    where: str | None = None
    attempts: int = 0
    seconds: float | None = None
    reason: str | None = None
    changed: list[str] = field(default_factory=list)

    @property
    def record(self) -> Path:
        """Written last by its run."""
        return Path(self.folder) / "result.json"

    @property
    def finished(self) -> bool:
        if not self.record.is_file():
            return False
        if not self.evaluation:  # of a manifest from before runs held several
            return True
        return any(key.startswith(self.evaluation) for key in _evaluations(self.record))

    def __str__(self) -> str:
        return self.label


_CELLS = TypeAdapter(list[Cell])


def _evaluations(record: Path) -> list[str]:
    """The keys of a record's evaluations; none if it is broken, of which its own run will tell."""
    try:
        return [str(each["key"]) for each in (read_json(record) or {}).get("evaluations", [])]
    except (ValueError, TypeError, LookupError):
        return []


class Manifest:
    """The cells of the sweep in `folder`. What an earlier process wrote of the same cells is taken over."""

    def __init__(self, folder: Path, cells: list[Cell]):
        self.folder, self.cells = folder, cells
        before = {tuple(cell.overrides): cell for cell in read_manifest(folder) or []}
        for cell in cells:
            known = before.get(tuple(cell.overrides))
            if known is not None:
                cell.attempts, cell.seconds = known.attempts, known.seconds
                if known.changed and known.finished:
                    cell.folder, cell.changed = known.folder, known.changed
            if cell.finished:
                cell.state, cell.reason = "done", None
            elif cell.state != "failed":
                cell.state = "waiting"

    def __enter__(self) -> "Manifest":
        make_folder(self.folder)
        self._lock = FileLock(self.folder / ".lock", timeout=0)
        try:
            with explained(self.folder / ".lock", "locked"):
                self._lock.acquire()
        except Timeout as error:
            raise UserError(f"{self.folder}: another process is running this very sweep") from error
        remove_leftovers(self.folder)
        self.save()
        return self

    def __exit__(self, *_: object) -> None:
        self.save()
        self._lock.release()

    def log_of(self, cell: Cell) -> Path:
        """Where the output of a cell's process goes."""
        return self.folder / "logs" / f"{cell.number}.log"

    def save(self) -> None:
        write_json(self.folder / "manifest.json", {"cells": [dataclasses.asdict(cell) for cell in self.cells]})


def read_manifest(folder: Path) -> list[Cell] | None:
    """The cells of the sweep in `folder`, None if there is no sweep. Raises `UserError` if the file is none of ours."""
    path = folder / "manifest.json"
    try:
        content = read_json(path)
        return None if content is None else _CELLS.validate_python(content["cells"])
    except (ValueError, KeyError) as error:
        raise UserError(f"{path}: no manifest of a sweep; delete it to start the sweep again") from error


def is_running(folder: Path) -> bool:
    """Whether a process is at work on the sweep in `folder`, as far as its lock can be asked."""
    lock = FileLock(folder / ".lock", timeout=0)
    try:
        with lock:
            return False
    except Timeout:
        return True
    except OSError:
        return False
