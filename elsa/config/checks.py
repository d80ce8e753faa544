"""What must hold before a run begins, as one list: `elsa prune` stops at the first that fails, `elsa doctor` shows all.

A check gives a line about what it found, or raises `UserError`.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from elsa import hub
from elsa.config.prune import EvaluateConfig, PruneConfig, resolved_device
from elsa.errors import UserError, require, under
from elsa.files import read_json
from elsa.layerwise.activations import PLACES
from elsa.model.loading import max_positions
from elsa.model.weights import Coverage, coverage, prunable_weights

_GIB = 2**30


class Check(NamedTuple):
    """`look`: what it finds, in words. Raises `UserError` if that does not do."""

    name: str
    look: Callable[[], str]


def prune_checks(run: PruneConfig) -> list[Check]:
    """In the order in which a user would mend them."""
    return [
        Check("settings", lambda: _settings(run)),
        Check("model", lambda: _model(run)),
        Check("data", lambda: _data(run)),
        Check("evaluation", lambda: _evaluation(run)),
        Check("method", lambda: _method(run)),
        Check("pattern", lambda: _pattern(run)),
        Check("device", lambda: _device(run.device)),
        Check("tracker", lambda: run.tracker.describe()),
        Check("disk", lambda: _disk(Path(run.paths.outputs))),
        Check("mirror", lambda: _mirror(run.paths.mirror)),
    ]


def check_prune(run: PruneConfig) -> Coverage:
    """Raise `UserError` for what can be known before weights are loaded; return what will be pruned."""
    for check in prune_checks(run):
        check.look()
    return coverage(_skeleton(run))


def check_evaluate(run: EvaluateConfig) -> None:
    """Raise `UserError` for what can be known before weights are loaded."""
    with under("eval"):
        run.eval.check()
    resolved_device(run.device)
    folder = Path(run.checkpoint)
    require(folder.is_dir(), "checkpoint", run.checkpoint, "no such folder; give a run folder or its model folder")


def _settings(run: PruneConfig) -> str:
    require(run.probe_every >= 0, "probe_every", run.probe_every, "a number of steps, or 0 for never")
    require(run.reuse in ("same_code", "any_code"), "reuse", run.reuse, "known: same_code, any_code")
    require(run.activations in PLACES, "activations", run.activations, f"known: {', '.join(PLACES)}")
    return "in range"


def _skeleton(run: PruneConfig) -> nn.Module:
    return run.model.skeleton(Path(run.paths.cache))


def _model(run: PruneConfig) -> str:
    with under("model"):
        run.model.check()
    found = coverage(_skeleton(run))
    found.check()
    return f"{run.model.name}: {found}"


def _data(run: PruneConfig) -> str:
    if not run.method.uses_data:
        return "not needed"
    with under("data"):
        run.data.check("train")
    longest, length = max_positions(_skeleton(run)), run.data.length
    fits = longest is None or length is None or length <= longest
    require(fits, "data.sequence_length", length, f"model={run.model.name} takes windows up to {longest} tokens")
    return f"{type(run.data).__name__.lower()}, train split"


def _evaluation(run: PruneConfig) -> str:
    with under("eval"):
        run.eval.check()
    return type(run.eval).__name__.lower()


def _method(run: PruneConfig) -> str:
    with under("method"):
        run.method.check(run.training)
    if run.method.trains:
        with under("precision"):
            run.precision.check(run.training.optimizer, run.training.accumulation)
    return run.method.label


def _pattern(run: PruneConfig) -> str:
    if not run.method.prunes:
        return "dense"
    group = run.sparsity.group
    for name, weight in prunable_weights(_skeleton(run)).items():
        inputs = weight.value_OI.shape[1]
        divides = group is None or inputs % group == 0
        wanted = f"{name} has {inputs} inputs, no multiple of {group}"
        require(divides, "sparsity.pattern", run.sparsity.pattern, wanted)
    return run.sparsity.name


def _device(given: str) -> str:
    device = resolved_device(given)
    if device == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    memory = torch.cuda.get_device_properties(0).total_memory
    return f"{torch.cuda.get_device_name(0)}, {memory / _GIB:.0f} GiB"


def _disk(outputs: Path) -> str:
    there = next(folder for folder in (outputs, *outputs.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    require(free >= _GIB, "paths.outputs", outputs, f"only {free / _GIB:.1f} GiB free")
    return f"{outputs}: {free / _GIB:.0f} GiB free"


def _mirror(mirror: str | None) -> str:
    """The mirror's manifest against its files, by size."""
    if mirror is None:
        return "none"
    folder = Path(mirror)
    manifest = read_json(folder / "manifest.json")
    if manifest is None:
        return f"{folder}: no manifest, so its files are not checked"
    broken = [n for n, e in manifest.items() if not (folder / n).is_file() or (folder / n).stat().st_size != e["bytes"]]
    if broken:
        raise UserError(f"paths.mirror={folder}: {len(broken)} files are missing or cut, first {broken[0]}")
    return f"{folder}: {len(manifest)} files as in its manifest"


def describe_hub() -> str:
    """Whether the hub can be reached, in words."""
    return "reachable" if hub.reachable() else "not reachable: only what is local or cached can be used"
