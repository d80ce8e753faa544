"""What must hold before a run begins, as one list: `elsa prune` stops at the first that fails, `elsa doctor` shows all.

A check gives a line about what it found, or raises `UserError`.
"""

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import torch
from torch import nn

from elsa import hub
from elsa.config.commands import Paths
from elsa.config.prune import MOST_DEVICES, EvaluateConfig, PruneConfig, Shared, resolved_device
from elsa.data.windows import WindowReader
from elsa.distributed.ranks import started_among
from elsa.errors import UserError, require, under
from elsa.files import check_writable, file_hash, read_json
from elsa.layerwise.activations import PLACES
from elsa.model.loading import limits
from elsa.model.weights import Coverage, PrunableWeight, coverage, prunable_weights
from elsa.sparsity.allocation import patterns_by_level
from elsa.sparsity.levels import wanted_levels
from elsa.sparsity.pattern import Pattern
from elsa.track.memory import machine_bytes
from elsa.track.progress import progress

_GIB = 2**30
T = TypeVar("T")


class Check(NamedTuple):
    """`look`: what it finds, in words. Raises `UserError` if that does not do.

    `here`: it is of this machine alone. `slow`: it reads all of the text, for which a sweep has no time.
    """

    name: str
    look: Callable[[], str]
    here: bool = False
    slow: bool = False


class Answers:
    """What slow looks found, failures too: each question is asked once for all the runs that share these answers."""

    def __init__(self) -> None:
        self._found: dict[str, Any] = {}

    def of(self, name: str, look: Callable[[], T], *decided_by: Any) -> T:
        """`look()`, whose answer is decided by these settings. Raises the `UserError` that it raised the first time."""
        key = repr((name, *decided_by))
        if key not in self._found:
            try:
                self._found[key] = look()
            except UserError as error:
                self._found[key] = error
        found = self._found[key]
        if isinstance(found, UserError):
            raise UserError(str(found)) from found
        return cast(T, found)


def prune_checks(run: PruneConfig, answers: Answers | None = None) -> list[Check]:
    """In the order in which a user would mend them."""
    known = answers or Answers()

    def once(name: str, look: Callable[[], str], *decided_by: Any) -> Check:
        return Check(name, lambda: known.of(name, look, *decided_by))

    return [
        Check("settings", lambda: _settings(run)),
        once("folders", lambda: check_folders(run.paths), run.paths),
        once("model", lambda: _model(run, known), run.model, run.paths),
        Check("data", lambda: _data(run, known)),
        once("evaluation", lambda: _evaluation(run), run.eval, run.paths),
        Check("method", lambda: _method(run)),
        once("pattern", lambda: _pattern(run, known), run.model, run.paths, run.sparsity, run.method, run.ranks),
        Check("device", lambda: _device(run.device), here=True),
        once("tracker", lambda: run.tracker.describe(), run.tracker),
        once("disk", lambda: _disk(Path(run.paths.outputs)), run.paths),
        once("mirror", lambda: _mirror(run.paths.mirror, run.full), run.paths, run.full),
        Check("text", lambda: _text(run, known), slow=True),
    ]


def check_prune(run: PruneConfig, answers: Answers | None = None, *, here: bool = True, slow: bool = True) -> Coverage:
    """Raise `UserError` for what can be known before weights are loaded; return what will be pruned.

    `answers`: what the checks of other runs have found just before. `here`: whether it will run on this machine.
    `slow`: whether to read the text too.
    """
    known = answers or Answers()
    for check in prune_checks(run, known):
        if (here or not check.here) and (slow or not check.slow):
            check.look()
    return known.of("coverage", lambda: coverage(_skeleton(run, known)), run.model, run.paths)


def check_evaluate(run: EvaluateConfig) -> None:
    """Raise `UserError` for what can be known before weights are loaded."""
    check_folders(run.paths)
    with under("eval"):
        run.eval.check()
    resolved_device(run.device)
    run.check_folder()


def check_folders(paths: Paths) -> str:
    """Raise `UserError` unless files can be made in `paths.outputs` and `paths.cache`. Nothing is left there."""
    for key in ("outputs", "cache"):
        check_writable(f"paths.{key}", Path(getattr(paths, key)))
    return f"{paths.outputs} and {paths.cache} can be written to"


def check_devices(run: Shared) -> None:
    """Raise `UserError` for a number of devices that is none, or not that of the processes that were started."""
    counted = run.devices is None or 1 <= run.devices <= MOST_DEVICES
    require(counted, "devices", run.devices, f"from 1 to {MOST_DEVICES:,}, or null")
    started = started_among()
    agreed = run.devices in (None, started) or started == 1
    require(agreed, "devices", run.devices, f"{started} processes were started; leave it out")
    if started == 1 and run.ranks > 1 and resolved_device(run.device) == "cuda":
        here = torch.cuda.device_count()
        require(run.ranks <= here, "devices", run.devices, f"GPUs here: {here}")


def _settings(run: PruneConfig) -> str:
    require(run.seed >= 0, "seed", run.seed, "a whole number from 0 up")
    check_devices(run)
    require(run.probe_every >= 0, "probe_every", run.probe_every, "a number of steps, or 0 for never")
    require(run.reuse in ("same_code", "any_code"), "reuse", run.reuse, "known: same_code, any_code")
    require(run.activations in PLACES, "activations", run.activations, f"known: {', '.join(PLACES)}")
    return "in range"


def _skeleton(run: PruneConfig, answers: Answers) -> nn.Module:
    return answers.of("skeleton", lambda: run.model.skeleton(Path(run.paths.cache)), run.model, run.paths)


def _model(run: PruneConfig, answers: Answers) -> str:
    with under("model"):
        run.model.check()
    found = coverage(_skeleton(run, answers))
    found.check()
    return f"{run.model.name}: {found}"


def _data(run: PruneConfig, answers: Answers) -> str:
    if not run.method.uses_data:
        return "not needed"
    with under("data"):
        answers.of("train split", lambda: run.data.check("train"), run.data, run.paths)
    longest, length = limits(_skeleton(run, answers))["positions"], run.data.length
    fits = longest is None or length is None or length <= longest
    require(fits, "data.sequence_length", length, f"model={run.model.name} takes windows up to {longest} tokens")
    return f"{type(run.data).__name__.lower()}, train split"


def _text(run: PruneConfig, answers: Answers) -> str:
    """Cut all windows that the run will look at; they are kept for it."""
    cache, skeleton = Path(run.paths.cache), _skeleton(run, answers)
    tokenizer = answers.of("tokenizer", lambda: run.model.tokenizer(cache), run.model, run.paths)
    reader = WindowReader(tokenizer=tokenizer, cache=cache, begin_with_bos=run.model.begin_with_bos, **limits(skeleton))
    run.eval.prepare(reader)
    drawn = sorted(run.method.draws(run.training))
    for count in drawn:
        _held(count, run.data.length or 1)
        reader.training(run.data, count, run.seed)
    return f"{len(tokenizer):,} tokens known, {sum(drawn):,} windows to train on"


def _held(count: int, length: int) -> None:
    """Raise `UserError` for more windows than memory can hold."""
    wanted, there = 4 * count * length, machine_bytes()
    takes = f"they take {wanted / _GIB:,.0f} GiB, and there are {there / _GIB:,.0f}; fewer steps or windows are wanted"
    require(wanted <= there, "data", f"{count:,} windows of {length} tokens", takes)


def _evaluation(run: PruneConfig) -> str:
    with under("eval"):
        run.eval.check()
    return type(run.eval).__name__.lower()


def _method(run: PruneConfig) -> str:
    with under("method"):
        run.method.check(run.training)
    with under("sparsity"):
        run.method.check_pattern(run.sparsity)
    if run.method.trains:
        with under("training"):
            run.training.check_ranks(run.ranks)
        with under("precision"):
            run.precision.check(run.training, run.ranks)
    return run.method.label


def _pattern(run: PruneConfig, answers: Answers) -> str:
    skeleton, pattern = _skeleton(run, answers), run.sparsity
    weights = prunable_weights(skeleton)
    for weight in weights.values():
        outputs = weight.shape_OI[0]
        even = not (run.method.trains and weight.row_dim) or outputs % run.ranks == 0
        said = f"{weight.parameter_name} has {outputs} outputs, not as rows; a number that divides them"
        require(even, "devices", run.ranks, said)
    if not run.method.prunes:
        return "dense"
    run.method.check_model(skeleton)
    for name, weight in weights.items():
        outputs, inputs = weight.shape_OI
        misfit = pattern.misfit(outputs, inputs)
        require(not misfit, "sparsity.pattern", pattern.pattern, f"{name} has {misfit}")
        own = -(-outputs // run.ranks)  # rows of a rank
        whole = own % pattern.rows == 0 or not run.method.trains or run.ranks == 1
        said = f"each would have {own} rows of {name}, no multiple of the {pattern.rows} of {pattern.pattern}"
        require(whole, "devices", run.ranks, said)
    return run.sparsity.name + _of_levels(run.sparsity, weights)


def _of_levels(pattern: Pattern, weights: Mapping[str, PrunableWeight]) -> str:
    """What becomes of the levels that were asked for."""
    if pattern.levels is None:
        return ""
    sizes = {name: weight.numel for name, weight in weights.items()}
    with under("sparsity"):
        wanted = wanted_levels(pattern.levels, list(sizes), pattern.sparsity)
        shares = [each.sparsity for each in patterns_by_level(pattern, sizes).values()]
    asked = sum(level * size for level, size in zip(wanted, sizes.values(), strict=True)) / sum(sizes.values())
    return f", {min(shares):.2%} to {max(shares):.2%} of a weight (as written they make {asked:.2%} in all)"


def _device(given: str) -> str:
    device = resolved_device(given)
    if device == "cpu":
        return f"cpu, {torch.get_num_threads()} threads"
    memory = torch.cuda.get_device_properties(0).total_memory
    return f"{torch.cuda.get_device_name(0)}, {memory / _GIB:.0f} GiB"


def _disk(outputs: Path) -> str:
    check_writable("paths.outputs", outputs)
    there = next(folder for folder in (outputs, *outputs.absolute().parents) if folder.is_dir())
    free = shutil.disk_usage(there).free
    require(free >= _GIB, "paths.outputs", outputs, f"only {free / _GIB:.1f} GiB free")
    return f"{outputs}: {free / _GIB:.0f} GiB free"


def _mirror(mirror: str | None, full: bool) -> str:
    """The mirror's manifest against its files, by size; `full`: by hash, which reads them all."""
    if mirror is None:
        return "none"
    folder = Path(mirror)
    manifest = read_json(folder / "manifest.json")
    if manifest is None:
        return f"{folder}: no manifest, so its files are not checked"
    for name, entry in manifest.items():
        whole = isinstance(entry, dict) and {"bytes", "sha256"} <= entry.keys()
        require(whole, "paths.mirror", folder, f"its manifest says nothing of {name}; elsa fetch writes it anew")
    broken = [n for n, e in manifest.items() if not (folder / n).is_file() or (folder / n).stat().st_size != e["bytes"]]
    if broken:
        raise UserError(f"paths.mirror={folder}: {len(broken)} files are missing or cut, first {broken[0]}")
    if not full:
        return f"{folder}: {len(manifest)} files of the size in its manifest (doctor full=true compares their hashes)"
    entries = progress(manifest.items(), "hash", unit="file")
    other = [name for name, entry in entries if file_hash(folder / name) != entry["sha256"]]
    if other:
        raise UserError(f"paths.mirror={folder}: {len(other)} files are not what the manifest says, first {other[0]}")
    return f"{folder}: {len(manifest)} files as in its manifest, to the last bit"


def describe_hub() -> str:
    """Whether the hub can be reached, in words."""
    return "reachable" if hub.reachable() else "not reachable: only what is local or cached can be used"
