"""`elsa plan`: what the same arguments to `elsa prune` would need, before anything is loaded."""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from torch import nn

from elsa import hub
from elsa.config.build import build
from elsa.config.compose import plain
from elsa.config.prune import PruneConfig, resolved_device
from elsa.errors import UserError, require
from elsa.plan.memory import Need, Shape, advice, before_training, bytes_a_weight, measure, need
from elsa.track.memory import machine_bytes, peak_bytes, reset_peak
from elsa.train.budget import Training
from elsa.train.constraint import NoConstraint
from elsa.train.precision import Precision
from elsa.train.task import TrainingTask
from elsa.train.train import train

_GIB = 2**30
ShapeOf = Callable[[Training, str], Shape]  # of a training and a dtype of weights
_KINDS = ("weights", "moments", "state", "gathered", "gradients", "activations", "logits")


def plan(composed: DictConfig) -> None:
    """Print bytes by kind for the config as given, then for each change until it fits; with a dry run also the time."""
    run = build(PruneConfig, plain(composed))
    hub.use_mirror(run.paths.mirror)
    trains = "plan is for methods that train on the loss: elsa, elsa_plus, best, finetuned"
    require(run.method.trains, "method", run.method.label, trains)
    shape_of, memory = _measuring(run), _memory(run)
    tried = advice(_need(run, shape_of, {}), lambda each: each.peak <= memory, _changes(run, shape_of))
    _print(run, tried, memory, shape_of(run.training, run.precision.weights))
    _print_first(run, shape_of, memory)
    if run.plan.dry_run_steps:
        _dry_run(run, resolved_device(run.device))


def smaller_settings(run: PruneConfig) -> list[str] | None:
    """Overrides for a run that did not fit: the first row of its plan that fits, but at least one change.

    None if the method does not train, or has nothing left to give up.
    """
    if not run.method.trains:
        return None
    shape_of, memory = _measuring(run), _memory(run)
    given = _need(run, shape_of, {})
    tried = advice(given, lambda each: each is not given and each.peak <= memory, _changes(run, shape_of))
    chosen = [name for name, _ in tried[1:]]
    return [override for name in chosen for override in name.split()] or None


def _measuring(run: PruneConfig) -> ShapeOf:
    config = run.model.sizes(Path(run.paths.cache))

    @functools.cache
    def shape_of(training: Training, weights: str) -> Shape:
        return measure(config, training, weights, _length(run), run.model.choose)

    return shape_of


def _memory(run: PruneConfig) -> float:
    """Bytes of the device."""
    given = run.plan.device_memory_gib
    return given * _GIB if given else _memory_of(resolved_device(run.device))


def _changes(run: PruneConfig, shape_of: ShapeOf) -> dict[str, Callable[[], Need]]:
    """Overrides that need less, each on top of those before it."""
    smaller: dict[str, dict[str, Any]] = {
        "precision.loss_chunk=2048": {"loss_chunk": 2048},
        "precision.activation_checkpointing=true": {"activation_checkpointing": True},
    }
    if run.training.accumulation == 1:
        smaller["precision.gradient_release=true"] = {"gradient_release": True}
    low = "precision.weights=bfloat16 precision.moments=8bit precision.state=bfloat16 precision.dual=null"
    smaller[low] = {
        "weights": "bfloat16", "moments": "8bit", "state": "bfloat16", "dual": None,
    }  # fmt: skip
    smaller["precision.state=float8"] = {"state": "float8"}
    changes: dict[str, Callable[[], Need]] = {}
    so_far: dict[str, Any] = {}
    for name, change in smaller.items():
        so_far = so_far | change
        if dataclasses.replace(run.precision, **so_far) != run.precision:
            changes[name] = functools.partial(_need, run, shape_of, so_far)
    for batch in (4, 2, 1):
        if batch < run.training.batch_size:
            changes[f"training.batch_size={batch}"] = functools.partial(_need, run, shape_of, so_far, batch)
    return changes


def _need(run: PruneConfig, shape_of: ShapeOf, changed: dict[str, Any], batch: int | None = None) -> Need:
    precision = dataclasses.replace(run.precision, **changed)
    smaller: dict[str, Any] = {} if batch is None else {"batch_size": batch, "accumulation": 1}
    training = dataclasses.replace(run.training, **smaller)
    shape = shape_of(training, precision.weights)
    state = run.method.state_bytes(precision)
    return need(shape, training, precision, _length(run), state=state, devices=run.ranks)


def _length(run: PruneConfig) -> int:
    """Tokens of a window."""
    if run.data.length is None:
        run.data.check("train")
    assert run.data.length is not None, "the check passed, so the source knows"
    return run.data.length


def _print(run: PruneConfig, tried: list[tuple[str, Need]], memory: float, shape: Shape) -> None:
    devices = run.ranks
    tokens = run.training.batch_size * _length(run)
    print(f"{run.model.name}: {shape.parameters:,} parameters, {shape.prunable:,} prunable, {shape.blocks} blocks")
    print(f"{run.training.steps:,} steps of {tokens:,} tokens, {run.training.steps * tokens:,} in all")
    title = f"GiB on {'the device' if devices == 1 else f'each of {devices} devices'} ({memory / _GIB:.0f} GiB)"
    table = Table(title=title)
    for header in ("settings, each on top of the last", *_KINDS, "peak", "fits"):
        table.add_column(header, justify="left" if header.startswith("settings") else "right")
    for name, each in tried:
        digits = 1 if each.peak > 10 * _GIB else 3
        values = [f"{getattr(each, kind) / _GIB:,.{digits}f}" for kind in (*_KINDS, "peak")]
        table.add_row(name, *values, "yes" if each.peak <= memory else "no")
    Console(width=140).print(table)
    per_weight = bytes_a_weight(shape, run.training, tried[-1][1], devices)
    print(f"{per_weight:.2f} bytes a prunable weight without gradients in the last row")
    if devices > 1:
        print(f"{tried[-1][1].wire / _GIB:,.2f} GiB over the wire a step and device in the last row")
    if tried[-1][1].peak > memory:
        raise UserError(f"plan.device_memory_gib={memory / _GIB:g}: nothing known makes this run fit")


def _print_first(run: PruneConfig, shape_of: ShapeOf, memory: float) -> None:
    """What the method takes that prunes before the training; every device holds all of the model for it."""
    first = run.method.first
    if first is None:
        return
    one_window = dataclasses.replace(run.training, batch_size=1, accumulation=1, autocast="none")
    budget = run.sparsity.allocation == "global" and first.uses_data
    shape, weight = shape_of(one_window, run.model.dtype), getattr(torch, run.model.dtype).itemsize
    needed = before_training(shape, weight, _length(run), budget=budget)
    print(f"{first.label} before it: {needed / _GIB:,.1f} GiB, with model.dtype={run.model.dtype}")
    if needed > memory:
        raise UserError(
            f"model.dtype={run.model.dtype}: {first.label}, which comes before the training, needs "
            f"{needed / _GIB:,.1f} GiB; set bfloat16, or sparsity.allocation=uniform"
        )


def _dry_run(run: PruneConfig, device: str) -> None:
    """Train a few steps on random tokens; print seconds a step, the time of the whole run and the peak memory."""
    steps = run.plan.dry_run_steps
    model, _ = run.model.load(Path(run.paths.cache), device)
    training = dataclasses.replace(run.training, steps=steps + 1, warmup_steps=0)
    length = _length(run)
    windows = torch.randint(
        0, model.config.get_text_config(decoder=True).vocab_size, (training.steps * training.batch_size, length)
    )
    reset_peak(device)
    seconds = _seconds_a_step(model, training, run.precision, windows)
    hours, minutes = divmod(round(seconds * run.training.steps / 60), 60)
    print(f"dry run: {seconds:.2f} s a step, {hours} h {minutes:02} min for {run.training.steps:,} steps, ", end="")
    print(f"peak {peak_bytes(device) / _GIB:.2f} GiB (without ADMM's state)")


def _seconds_a_step(model: nn.Module, training: Training, precision: Precision, windows: torch.Tensor) -> float:
    """Of all steps but the first, which compiles and allocates."""
    times = []

    class Clock(NoConstraint):
        def after_step(self, step: int) -> dict[str, float]:
            times.append(time.perf_counter())
            return {}

    task = TrainingTask(training=training, precision=precision, windows=lambda count: windows[:count])
    train(model, lambda optimizer: Clock(), task)
    return (times[-1] - times[0]) / (len(times) - 1)


def _memory_of(device: str) -> float:
    if device == "cuda":
        return float(torch.cuda.get_device_properties(0).total_memory)
    return float(machine_bytes())
