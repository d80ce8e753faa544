"""What the commands beside `prune` are given. Light: none of it needs torch."""

import os
from dataclasses import dataclass
from pathlib import Path

from elsa.config.choices import FORMATS, SORTED_BY
from elsa.errors import UserError, did_you_mean, require


@dataclass(frozen=True, kw_only=True)
class Paths:
    """`outputs`: run folders, sweeps and reports. `cache`: token windows, converted models and scores of all runs.

    `mirror`: a folder with local copies of what the hub has; null for none. ~ is the home folder.
    """

    outputs: str
    cache: str
    mirror: str | None

    def __post_init__(self) -> None:
        for name in ("outputs", "cache", "mirror"):
            given = getattr(self, name)
            if given is not None:
                object.__setattr__(self, name, _expanded(f"paths.{name}", given))


def _expanded(key: str, path: str) -> str:
    """With the home folder for ~."""
    try:
        return str(Path(path).expanduser())
    except RuntimeError as error:
        raise UserError(
            f"{key}={path}: this user has no home folder; set the key, or ELSA_CACHE for the cache"
        ) from error


@dataclass(frozen=True, kw_only=True)
class SavedModel:
    """`checkpoint`: the folder of a run, or that of a model."""

    checkpoint: str

    def check_folder(self) -> None:
        """Raise `UserError` if there is none."""
        there = Path(self.checkpoint).is_dir()
        require(there, "checkpoint", self.checkpoint, "no such folder; give a run folder or its model folder")
        is_model = (self.model_folder / "config.json").is_file() and self.model_folder != self.record_folder
        require(is_model, "checkpoint", self.checkpoint, "it holds no model (a dense run saves none)")

    @property
    def model_folder(self) -> Path:
        """The folder with the weights: that of a run holds them in `model`."""
        inside = Path(self.checkpoint) / "model"
        return inside if inside.is_dir() else Path(self.checkpoint)

    @property
    def record_folder(self) -> Path | None:
        """The folder of the run that the model is of, with its record; None if no run has left it."""
        folders = (self.model_folder.parent, Path(self.checkpoint))
        return next((each for each in folders if os.path.lexists(each / "result.json")), None)


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Tables of finished runs. `records`: folders that are searched for `result.json`, or files of `elsa report`.

    `every`: seconds after which the page is made anew while a sweep among them goes on; null makes it once.
    """

    records: list[str]
    every: int | None
    paths: Paths

    def __post_init__(self) -> None:
        require(self.every is None or self.every >= 1, "every", self.every, "seconds, at least 1, or null")

    def check(self) -> None:
        for folder in self.records:
            there = Path(folder).is_dir() or (Path(folder).is_file() and Path(folder).suffix == ".jsonl")
            require(there, "records", folder, "no such folder of finished runs or records.jsonl")


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig:
    """A run to do again. `record`: its `result.json` or folder, or `<file>.jsonl:<line or name>`.

    `threads`: null for as many as the record names. `paths.outputs`: the run goes to `reproductions` in it.
    """

    record: str
    threads: int | None
    paths: Paths

    def __post_init__(self) -> None:
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "at least 1, or null")


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """The runs of a sweep. `sweep`: the beginning of its folder's name, null for the last one."""

    sweep: str | None
    paths: Paths


@dataclass(frozen=True, kw_only=True)
class Only:
    """Which runs: globs over names, models and methods; null for all. `older_than`: days since a run last wrote."""

    name: str | list[str] | None
    model: str | list[str] | None
    method: str | list[str] | None
    sparsity: str | float | list[str | float] | None
    seed: int | list[int] | None
    state: str | list[str] | None
    older_than: float | None

    def __post_init__(self) -> None:
        require(self.older_than is None or self.older_than >= 0, "older_than", self.older_than, "days, 0 or more")


@dataclass(frozen=True, kw_only=True)
class RunsConfig:
    """What there is in `paths.outputs`, and what becomes of it.

    `sort`: a column, with "-" before it for the largest first. `compare`: two runs. `delete`, `keep`, `unkeep`: names
    of runs, beginnings of them, or globs. `yes`: delete without asking. `format`: null for a table on a terminal and
    lines with tabs elsewhere.
    """

    only: Only
    sort: str
    compare: list[str] | None
    delete: str | list[str]
    keep: str | list[str]
    unkeep: str | list[str]
    yes: bool
    format: str | None
    paths: Paths

    def __post_init__(self) -> None:
        require(self.sort.removeprefix("-") in SORTED_BY, "sort", self.sort, did_you_mean(self.sort, SORTED_BY))
        known = self.format is None or self.format in FORMATS
        require(known, "format", self.format, did_you_mean(str(self.format), FORMATS))
        two = self.compare is None or len(self.compare) == 2
        require(two, "compare", self.compare, "two runs, for example compare=[a,b]")
        acts = [name for name in ("compare", "delete", "keep", "unkeep") if getattr(self, name)]
        if len(acts) > 1:
            raise UserError(f"{' and '.join(acts)}: one of them at a time")


@dataclass(frozen=True, kw_only=True)
class DashboardConfig:
    """The dashboard of a wandb project. `save`: create it online, not only its JSON `file`."""

    entity: str
    project: str
    file: str
    save: bool
