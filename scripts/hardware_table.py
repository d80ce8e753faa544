"""The table of docs/reference/hardware.md: memory, time and disk of four models, by what `elsa plan` counts.

python scripts/hardware_table.py [--models opt_125m ...] [--write]

Nothing is downloaded: sizes are those of conf/model/*.yaml where the hub cannot be reached. `--write` puts the table
into the page; otherwise it is printed.
"""

import argparse
import functools
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.plan.memory import Need, Shape, before_training, measure, need
from elsa.train.budget import Training

PAGE = Path(__file__).parents[1] / "docs/reference/hardware.md"
MODELS = ("opt_125m", "opt_1_3b", "llama_2_7b", "gemma_2_27b")
LAYERWISE = "method=sparsegpt model.dtype=bfloat16"
SETTINGS = (
    "method=elsa training.accumulation=8 precision.activation_checkpointing=true",
    "method=elsa precision=elsa_l",
    "method=elsa_plus precision=elsa_l training.distillation=1",
)
DEVICES = 8
KEPT = 2  # states on disk, checkpoint.keep
SPEED = 300e12  # operations a second of the example
PRUNED_BYTES = 0.262  # of a pruned matrix at 80 % in bf16, over those of the dense one (docs: export)
GIB = 2**30


@dataclass(frozen=True)
class Row:
    """One way to run a model: bytes on one device and each of `DEVICES`, operations, bytes on disk (0: not counted)."""

    settings: str
    alone: float
    shared: float
    operations: float
    saved: float
    states: float


def run_of(model: str, settings: str, devices: int = 1) -> PruneConfig:
    return build(PruneConfig, compose(f"model={model}", "data=c4", *settings.split(), f"devices={devices}"))


@functools.cache
def shape_of(model: str, weights: str, windows: int, autocast: str) -> Shape:
    """Of a part of a step of so many windows."""
    run = run_of(model, "method=dense")
    training = Training(batch_size=windows, autocast=autocast)
    return measure(run.model.sizes(Path(run.paths.cache)), training, weights, length_of(run), run.model.choose)


def length_of(run: PruneConfig) -> int:
    assert run.data.length is not None, "text has one"
    return run.data.length


def needs(run: PruneConfig, shape: Shape) -> Need:
    length, state = length_of(run), run.method.state_bytes(run.precision)
    return need(shape, run.training, run.precision, length, state=state, devices=run.ranks)


def training_row(model: str, settings: str) -> Row:
    """The peak of the training, or of what prunes the model before it."""
    run = run_of(model, settings)
    windows = run.training.batch_size // run.training.accumulation
    shape = shape_of(model, run.precision.weights, windows, run.training.autocast)
    alone, shared = needs(run, shape), needs(run_of(model, settings, DEVICES), shape)
    first = first_bytes(model, settings) if run.method.first is not None else 0.0
    passes = 6 + 2 * run.precision.activation_checkpointing + 2 * run.training.distils
    tokens = run.training.steps * run.training.batch_size * length_of(run)
    weight = getattr(torch, run.precision.weights).itemsize
    return Row(
        settings=settings, alone=max(first, alone.peak), shared=max(first, shared.peak),
        operations=passes * shape.parameters * tokens, saved=shape.parameters * weight,
        states=KEPT * (alone.moments + alone.state + shape.parameters * weight),
    )  # fmt: skip


def first_bytes(model: str, settings: str) -> float:
    """Of the layer-wise method that comes before a training, whose budget is placed by gradients, in bf16."""
    run = run_of(model, f"{settings} model.dtype=bfloat16")
    budget = run.sparsity.allocation == "global"
    return before_training(shape_of(model, "bfloat16", 1, "none"), 2, length_of(run), budget=budget)


def layerwise_row(model: str) -> Row:
    shape = shape_of(model, "bfloat16", 1, "none")
    needed = before_training(shape, 2, length_of(run_of(model, LAYERWISE)), budget=False)
    return Row(LAYERWISE, needed, needed, 0, 2 * shape.parameters, 0)


def lines_of(model: str) -> list[str]:
    shape = shape_of(model, "bfloat16", 1, "none")
    export = 2 * (shape.parameters - shape.prunable) + PRUNED_BYTES * 2 * shape.prunable
    title = f"**{model}**, {shape.parameters / 1e9:.2f} B parameters, {shape.prunable / 1e9:.2f} B prunable"
    lines = [f"| {title}; exported at 80 %: {_gib(export)} | | | | | |"]
    for row in [layerwise_row(model), *(training_row(model, settings) for settings in SETTINGS)]:
        hours = row.operations / SPEED / 3600
        cells = [
            f"`{row.settings}`",
            _gib(row.alone),
            _gib(row.shared),
            _time(hours),
            _gib(row.saved),
            _gib(row.states),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _gib(number: float) -> str:
    if not number:
        return ""
    return f"{number / GIB:.2f}" if number < 9.95 * GIB else f"{number / GIB:,.0f}"


def _time(hours: float) -> str:
    if not hours:
        return ""
    return f"{60 * hours:,.0f} min" if hours < 1 else f"{hours:,.1f} h"


def table(models: tuple[str, ...] = MODELS) -> str:
    """Markdown."""
    head = ["", "GiB on one device", f"on each of {DEVICES}", "time at 300 TFLOP/s", "GiB on disk: model", "states"]
    rows = [line for model in models for line in lines_of(model)]
    return "\n".join([f"| {' | '.join(head)} |", f"| --- |{' ---: |' * (len(head) - 1)}", *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    found = table(tuple(options.models))
    if not options.write:
        print(found)
        return
    marks = r"(<!-- scripts/hardware_table.py -->\n)(?:.*?)(\n<!-- end -->)"
    PAGE.write_text(re.sub(marks, lambda mark: f"{mark[1]}{found}{mark[2]}", PAGE.read_text(), flags=re.DOTALL))


if __name__ == "__main__":
    main()
