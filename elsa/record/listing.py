"""The folders of runs as they lie on the disk, finished or not, read without torch; a broken one is listed as such.

What a run was and gave is in `result.json`; in `pruned.json` before it was scored, and in `config.json` before that.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, ValidationError

from elsa.errors import UserError
from elsa.files import read_json
from elsa.record.upgrade import upgraded
from elsa.sweep.manifest import is_running
from elsa.track.progress import progress

_WRITTEN = ("config.json", "metrics.jsonl", "pruned.json", "result.json")  # by a run as it goes on
_NAMED_ALONE = ("best", "elsa_plus")  # methods whose start is no part of their name
_KEPT = "kept"  # a file in the folder of a run that is never deleted


@dataclass(frozen=True)
class Listed:
    """A run. `sparsity`: as a pattern is called. `counted`: share of zeros on the disk. `changed`: seconds since 1970.

    `record`: what there is of one; `config`: as the run was started.
    """

    folder: Path
    state: str
    changed: float
    size: int
    kept: bool
    model: str | None = None
    method: str | None = None
    sparsity: str | None = None
    ratio: float | None = None
    counted: float | None = None
    seed: int | None = None
    perplexity: dict[str, float] = field(default_factory=dict)
    record: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Of its folder."""
        return self.folder.name


def list_runs(outputs: Path) -> list[Listed]:
    """All runs below `outputs`, by name."""
    folders = sorted(each for each in (outputs / "runs").glob("[!.]*") if each.is_dir())
    return [listed(folder) for folder in progress(folders, "read", unit="run")]


def listed(folder: Path) -> Listed:
    """One run; what its files do not say is None."""
    state, said, config = "unfinished", dict[str, Any](), dict[str, Any]()
    try:
        config = read_json(folder / "config.json") or {}
        for state, name in (("finished", "result.json"), ("pruned", "pruned.json"), ("unfinished", "config.json")):
            if os.path.lexists(folder / name):
                said = _of_config(config) if state == "unfinished" else upgraded(read_json(folder / name) or {})
                break
        facts = _facts(said)
    except (UserError, ValidationError, LookupError, TypeError, AttributeError):
        state, said, facts = "broken", {}, {}
    if (folder / ".lock").exists() and is_running(folder):
        state = "running"
    written = [(folder / name).lstat().st_mtime for name in _WRITTEN if os.path.lexists(folder / name)]
    size = sum(path.lstat().st_size for path in folder.rglob("*") if not path.is_dir())
    return Listed(
        folder=folder, state=state, changed=max(written, default=folder.stat().st_mtime), size=size,
        kept=is_kept(folder),
        config=said.get("config", config), record=said if state in ("finished", "pruned", "running") else {}, **facts,
    )  # fmt: skip


def is_kept(folder: Path) -> bool:
    """Whether somebody has said that the run is never to be deleted."""
    return (folder / _KEPT).exists()


def set_kept(folder: Path, kept: bool) -> None:
    """Say so, or take it back."""
    if kept:
        (folder / _KEPT).touch()
    else:
        (folder / _KEPT).unlink(missing_ok=True)


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("not printable")
    return text


_Word = Annotated[str, AfterValidator(_printable)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="ignore")


class _Counted(_Group):
    asked: float | None = None
    counted: float | None = None


class _Score(_Group):
    perplexity: float


class _Evaluation(_Group):
    perplexity: dict[_Word, _Score] = {}


class _Facts(_Group):
    model: _Word
    method: _Word
    pattern: _Word
    seed: int | None = None
    sparsity: _Counted = _Counted()
    evaluations: list[_Evaluation] = []


def _facts(said: dict[str, Any]) -> dict[str, Any]:
    """The columns of a list; of a set that was scored several times the last score."""
    if not said:
        return {}
    found = _Facts.model_validate(said)
    scores = [item for each in found.evaluations for item in each.perplexity.items()]
    return {
        "model": found.model, "method": found.method, "sparsity": found.pattern, "seed": found.seed,
        "ratio": found.sparsity.asked, "counted": found.sparsity.counted,
        "perplexity": {name: score.perplexity for name, score in scores},
    }  # fmt: skip


def _label(method: dict[str, Any]) -> str:
    """Of a method's config, with what it starts with as far as that is part of its name."""
    package, _, kind = str(method["_target_"]).rpartition(".")
    label = package.rpartition(".")[2] if package.startswith("elsa.method.") else kind.lower()
    return label if label in _NAMED_ALONE or method.get("start") is None else f"{_label(method['start'])}+{label}"


def _of_config(config: dict[str, Any]) -> dict[str, Any]:
    """What a run that has no record yet is going to be."""
    method = _label(config["method"])
    ratio, pattern = config["sparsity"]["ratio"], config["sparsity"]["pattern"]
    label = "dense" if method == "dense" else f"{100 * ratio:g}%" if pattern == "unstructured" else pattern
    return {
        "model": config["model"]["name"], "method": method, "pattern": label, "seed": config["seed"],
        "sparsity": {"asked": ratio},
    }  # fmt: skip
