"""`elsa doctor`: whether the same arguments to `elsa prune` would find all they need here, in seconds."""

import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table

from elsa import hub
from elsa.config.compose import plain
from elsa.config.schema import PruneConfig, build, resolved_device
from elsa.errors import UserError
from elsa.files import read_json
from elsa.model.prunable import coverage

_GIB = 2**30


def doctor(composed: DictConfig) -> None:
    """Print a line per need with what was found. Raises `UserError` if something is missing."""
    run = build(PruneConfig, plain(composed))
    hub.use_mirror(run.paths.mirror)
    needs = {
        "model": lambda: _model(run),
        "data": lambda: _data(run),
        "evaluation": lambda: _evaluation(run),
        "method": lambda: _method(run),
        "device": lambda: _device(run),
        "disk": lambda: _disk(Path(run.paths.outputs)),
        "tracker": lambda: _tracker(run),
        "hub": lambda: "reachable" if hub.reachable() else "not reachable: only what is local or cached can be used",
        "mirror": lambda: _mirror(run),
        "libraries": lambda: ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "lm_eval")),
    }
    table, missing = Table(show_header=False), []
    for name, look in needs.items():
        found, answer = _answer(look)
        missing += [] if found else [name]
        table.add_row("ok" if found else "MISSING", name, answer)
    Console(width=140).print(table)
    if missing:
        raise UserError(f"doctor: {', '.join(missing)} would stop this run")
    print("ready")


def _answer(look: Callable[[], str]) -> tuple[bool, str]:
    try:
        return True, look()
    except UserError as error:
        return False, str(error)


def _model(run: PruneConfig) -> str:
    run.model.check()
    found = coverage(run.model.skeleton(Path(run.paths.cache)))
    found.check()
    return f"{run.model.name}: {found}"


def _data(run: PruneConfig) -> str:
    if "data" not in run.method.reads:
        return "not needed"
    run.data.check("train")
    return f"{type(run.data).__name__.lower()}, train split"


def _evaluation(run: PruneConfig) -> str:
    run.eval.check()
    return type(run.eval).__name__.lower()


def _method(run: PruneConfig) -> str:
    run.method.check(run.training)
    if "precision" in run.method.reads:
        run.precision.check(run.training.optimizer, run.training.accumulation)
    return type(run.method).__name__.lower()


def _device(run: PruneConfig) -> str:
    device = resolved_device(run.device)
    if device == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    memory = torch.cuda.get_device_properties(0).total_memory
    return f"{torch.cuda.get_device_name(0)}, {memory / _GIB:.0f} GiB"


def _disk(outputs: Path) -> str:
    there = next(folder for folder in (outputs, *outputs.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free < _GIB:
        raise UserError(f"paths.outputs={outputs}: only {free / _GIB:.1f} GiB free")
    return f"{outputs}: {free / _GIB:.0f} GiB free"


def _tracker(run: PruneConfig) -> str:
    name = type(run.tracker).__name__.lower()
    if hasattr(run.tracker, "resolved_mode"):
        return f"{name}, {run.tracker.resolved_mode()}"
    return name


def _mirror(run: PruneConfig) -> str:
    """The mirror's manifest against its files, by size."""
    if run.paths.mirror is None:
        return "none"
    folder = Path(run.paths.mirror)
    manifest = read_json(folder / "manifest.json")
    if manifest is None:
        return f"{folder}: no manifest, so its files are not checked"
    broken = [n for n, e in manifest.items() if not (folder / n).is_file() or (folder / n).stat().st_size != e["bytes"]]
    if broken:
        raise UserError(f"paths.mirror={folder}: {len(broken)} files are missing or cut, first {broken[0]}")
    return f"{folder}: {len(manifest)} files as in its manifest"
