"""Turn a composed config into objects, and refuse what cannot run before any work starts.

Every group is a dataclass named by `_target_`; its fields are the keys of the YAML, their annotations the types.
Each problem is one line: the key, the value, what would be right.
"""

import dataclasses
import typing
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import torch
from pydantic import TypeAdapter, ValidationError

from elsa.admm.penalty import Penalty
from elsa.admm.precision import Precision
from elsa.admm.training import Training
from elsa.data.sources import Source, Tokens
from elsa.errors import UserError, did_you_mean, require, under
from elsa.evaluate import Evaluation
from elsa.layerwise.activations import PLACES
from elsa.method import Method
from elsa.model.loading import ModelSource, max_positions
from elsa.model.prunable import Coverage, coverage, prunable_weights
from elsa.sparsity.pattern import Pattern
from elsa.track import TrackerSource


@dataclass(frozen=True, kw_only=True)
class Paths:
    """`outputs`: run folders, sweeps and reports. `cache`: token windows, converted models and scores of all runs.

    `mirror`: a folder with local copies of what the hub has; null for none.
    """

    outputs: str
    cache: str
    mirror: str | None


@dataclass(frozen=True, kw_only=True)
class Checkpointing:
    """Every how many minutes a training run keeps its state, and how many of the last states stay on disk."""

    every_minutes: float
    keep: int

    def __post_init__(self):
        require(self.every_minutes >= 0, "every_minutes", self.every_minutes, "0 for every step, or a positive number")
        require(self.keep >= 1, "keep", self.keep, "at least 1")


@dataclass(frozen=True, kw_only=True)
class Planning:
    """What `elsa plan` plans for. `device_memory_gib`: null for that of this machine. `dry_run_steps`: 0 for none."""

    devices: int
    device_memory_gib: float | None
    dry_run_steps: int

    def __post_init__(self):
        require(self.devices >= 1, "devices", self.devices, "at least 1")
        known = self.device_memory_gib is None or self.device_memory_gib > 0
        require(known, "device_memory_gib", self.device_memory_gib, "positive, for example 80, or null")
        require(self.dry_run_steps >= 0, "dry_run_steps", self.dry_run_steps, "0 for none, or at least 2")


@dataclass(frozen=True, kw_only=True)
class PruneConfig:
    """One pruning run."""

    model: ModelSource
    data: Source | Tokens
    sparsity: Pattern
    method: Method
    training: Training
    penalty: Penalty
    precision: Precision
    eval: Evaluation
    tracker: TrackerSource
    paths: Paths
    seed: int
    device: str
    activations: str
    checkpoint: Checkpointing
    probe_every: int
    plan: Planning

    def check(self) -> Coverage:
        """Raise `UserError` for what can be known before weights are loaded; return what will be pruned."""
        require(self.probe_every >= 0, "probe_every", self.probe_every, "a number of steps, or 0 for never")
        require(self.activations in PLACES, "activations", self.activations, f"known: {', '.join(PLACES)}")
        _check("model", self.model.check)
        if "data" in self.method.reads:
            _check("data", self.data.check, "train")
        _check("eval", self.eval.check)
        _check("method", self.method.check, self.training)
        if "precision" in self.method.reads:
            _check("precision", self.precision.check, self.training.optimizer, self.training.accumulation)
        resolved_device(self.device)
        skeleton = self.model.skeleton(Path(self.paths.cache))
        longest, length = max_positions(skeleton), getattr(self.data, "sequence_length", 0)
        fits = longest is None or length <= longest
        require(fits, "data.sequence_length", length, f"model={self.model.name} takes windows up to {longest} tokens")
        found = coverage(skeleton)
        found.check()
        if self.sparsity.group is not None:
            for name, weight in prunable_weights(skeleton).items():
                inputs = weight.value_OI.shape[1]
                divides = inputs % self.sparsity.group == 0
                wanted = f"{name} has {inputs} inputs, no multiple of {self.sparsity.group}"
                require(divides, "sparsity.pattern", self.sparsity.pattern, wanted)
        return found


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Scoring one saved model."""

    checkpoint: str
    data: Source | Tokens
    eval: Evaluation
    paths: Paths
    device: str
    dtype: str
    begin_with_bos: bool

    @property
    def model_folder(self) -> Path:
        """The folder with the weights: that of a run holds them in `model`."""
        folder = Path(self.checkpoint)
        return folder / "model" if (folder / "model").is_dir() else folder

    def check(self) -> None:
        _check("eval", self.eval.check)
        resolved_device(self.device)
        folder = Path(self.checkpoint)
        require(folder.is_dir(), "checkpoint", self.checkpoint, "no such folder; give a run folder or its model folder")


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """Tables of finished runs. `records`: folders that are searched for `result.json`, or files of `elsa report`."""

    records: list[str]
    paths: Paths

    def check(self) -> None:
        for folder in self.records:
            there = Path(folder).is_dir() or (Path(folder).is_file() and Path(folder).suffix == ".jsonl")
            require(there, "records", folder, "no such folder of finished runs or records.jsonl")


@dataclass(frozen=True, kw_only=True)
class StatusConfig:
    """The runs of a sweep. `sweep`: the beginning of its folder's name, null for the last one."""

    sweep: str | None
    paths: Paths


@dataclass(frozen=True, kw_only=True)
class DashboardConfig:
    """The dashboard of a wandb project. `save`: create it online, not only its JSON `file`."""

    entity: str
    project: str
    file: str
    save: bool


def _check(key: str, check: Callable, *arguments: object) -> None:
    with under(key):
        check(*arguments)


def resolved_device(device: str) -> str:
    """Where "auto" is cuda if there is one, else cpu. Raises `UserError` for a device that is not there."""
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    known = ["auto", "cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    require(device in known, "device", device, f"known here: {', '.join(known)}")
    return device


def build(schema: type, config: dict, key: str = "") -> Any:
    """Build `schema` from a plain dict, recursively. `key`: where the dict stands in the config."""
    hints = get_type_hints(schema)
    fields = {field.name: hints[field.name] for field in dataclasses.fields(schema)}
    given = {name: value for name, value in config.items() if name != "_target_"}
    for name, value in given.items():
        require(name in fields, _join(key, name), value, f"no such key; {did_you_mean(name, fields)}")
    for name in fields:
        require(name in given and given[name] != "???", _join(key, name), "???", "must be given")
    values = {name: _value(given[name], hint, _join(key, name)) for name, hint in fields.items()}
    try:
        return schema(**values)
    except UserError as error:
        raise UserError(_join(key, str(error))) from error


def _value(value: Any, hint: Any, key: str) -> Any:
    if typing.get_origin(hint) is dict and isinstance(value, dict):
        item = typing.get_args(hint)[1]
        return {name: _value(child, item, _join(key, name)) for name, child in value.items()}
    if value is None and type(None) in typing.get_args(hint):
        return None
    if isinstance(value, dict) and "_target_" in value:
        value = build(_locate(value["_target_"], key), value, key)
        require(isinstance(value, hint), f"{key}._target_", type(value).__name__, "it does not belong in this group")
        return value
    if dataclasses.is_dataclass(hint) and isinstance(value, dict):
        return build(hint, value, key)
    if any(kind.__module__.startswith("elsa.") for kind in typing.get_args(hint) or (hint,)):
        raise UserError(f"{key}={_shown(value)}: a group of keys is wanted; elsa --help lists the choices")
    try:
        return TypeAdapter(hint).validate_python(value, strict=True)
    except ValidationError as error:
        raise UserError(f"{key}={_shown(value)}: {error.errors()[0]['msg'].lower()}") from error


def _shown(value: Any) -> Any:
    return "null" if value is None else value


def _locate(target: str, key: str) -> type:
    module, _, name = target.rpartition(".")
    try:
        found = getattr(import_module(module), name) if module.startswith("elsa.") else None
    except (ImportError, AttributeError):
        found = None
    require(dataclasses.is_dataclass(found), f"{key}._target_", target, "no dataclass of this package")
    return found


def _join(*parts: str) -> str:
    return ".".join(part for part in parts if part)
