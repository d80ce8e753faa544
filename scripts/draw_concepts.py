"""The pictures of docs/concepts, drawn by the package's own updates, penalties and budgets.

python scripts/draw_concepts.py [--to docs/concepts/pictures]

Takes a few minutes on two cores: it trains the embedded model under four penalties, and measures its gradients.
"""

import argparse
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib import rc_context
from matplotlib.figure import Figure

from elsa.admm.penalty import Auto, Constant, Cosine, Exponential, Linear, Penalty
from elsa.admm.state import MergedState
from elsa.api import load, prune
from elsa.data.sources import Stdlib
from elsa.data.windows import WindowReader
from elsa.method.best import Best
from elsa.method.elsa_plus import ElsaPlus
from elsa.model.weights import parameters_of, prunable_weights
from elsa.sparsity.allocation import allocate
from elsa.sparsity.pattern import Pattern, Rise
from elsa.sparsity.projection import project
from elsa.train.loss import squared_gradients

ROOT = Path(__file__).parents[1]
INK = "#7a7f87"  # legible on white and on black
BLUE, ORANGE, GREEN, RED, PURPLE = "#3b82c4", "#e08a1e", "#3a9d5d", "#d1495b", "#8f63c9"
STYLE: dict[Any, Any] = {
    "svg.hashsalt": "elsa", "svg.fonttype": "path", "font.size": 10, "savefig.transparent": True, "text.color": INK,
    "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.titlecolor": INK,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "axes.titlesize": 10,
}  # fmt: skip

DENSE = torch.tensor([[1.0, 0.8]])  # where the loss of two weights is lowest
CURVATURE = torch.tensor([[0.5, 0.3], [0.3, 3.0]])
ONE_OF_TWO = Pattern(pattern="unstructured", ratio=0.5)


def loss(x: torch.Tensor) -> float:
    """Of two weights, [1, 2]."""
    return float(0.5 * ((x - DENSE) @ CURVATURE * (x - DENSE)).sum())


PLANES = {0.4: "never settles", 1.0: "finds the other axis", 4.0: "stays where it was"}


@dataclass
class Way:
    """Where ADMM has been. `x`: after every step. `z`, `u`: after every update, the first at the start."""

    x: list[torch.Tensor] = field(default_factory=list)
    z: list[torch.Tensor] = field(default_factory=list)
    u: list[torch.Tensor] = field(default_factory=list)


def admm(penalty: float, steps: int = 160, interval: int = 10, rate: float = 0.1) -> Way:
    """Gradient steps on f(x) + λ/2 ‖x − z + u‖², and z and u anew every `interval` of them, from the dense weights."""
    x, state, way = DENSE.clone(), MergedState(DENSE, ONE_OF_TWO), Way()
    for step in range(steps + 1):
        if step and step % interval == 0:
            state.update(x, ONE_OF_TWO)
        if step % interval == 0:
            way.z.append(state.sparse())
            way.u.append(state.sparse() - state.difference())
        way.x.append(x)
        gradient = (x - DENSE) @ CURVATURE
        state.add_proximal_gradient(gradient, x, penalty)
        x = x - rate * gradient
    return way


def draw_plane(figure: Figure) -> None:
    """x and z on two weights, of which one is to be zero, under three penalties."""
    axes = figure.subplots(1, 3, sharey=True)
    grid = np.linspace(-0.35, 1.5, 120), np.linspace(-0.15, 1.5, 120)
    heights = [[loss(torch.tensor([[a, b]], dtype=torch.float32)) for a in grid[0]] for b in grid[1]]
    for axis, (penalty, what) in zip(axes, PLANES.items(), strict=True):
        levels = [0.02, 0.06, 0.13, 0.25, 0.45, 0.7, 1.1]
        axis.contour(*grid, heights, levels=levels, colors=INK, linewidths=0.5, alpha=0.6)
        axis.axhline(0, color=INK, linewidth=1.6)
        axis.axvline(0, color=INK, linewidth=1.6)
        way = admm(penalty)
        x, z = torch.cat(way.x), torch.cat(way.z)
        axis.plot(x[:, 0], x[:, 1], color=BLUE, linewidth=1.5, label="x, every step")
        axis.plot(z[:, 0], z[:, 1], "o", color=ORANGE, markersize=4, label="z, every update")
        axis.plot(*DENSE[0], "*", color=BLUE, markersize=11, label="dense weights")
        axis.plot(*project(DENSE, ONE_OF_TWO)[0], "X", color=RED, markersize=9, label="largest weight kept")
        last = project(x[-1:], ONE_OF_TWO)
        axis.plot(*last[0], "D", color=GREEN, markersize=7, label="x projected at the end")
        axis.set(xlabel="first weight", title=f"λ = {penalty:g}: {what}, loss {loss(last):.2f}", aspect="equal")
        axis.set(xlim=grid[0][[0, -1]], ylim=grid[1][[0, -1]])
    axes[0].set_ylabel("second weight")
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=5, fontsize=8)


def draw_dual(figure: Figure) -> None:
    """u of both weights, and which of them z keeps, update by update."""
    way, axis = admm(1.0), figure.subplots()
    for place, (color, name) in enumerate(((PURPLE, "first"), (BLUE, "second"))):
        axis.plot(torch.cat(way.u)[:, place], "o-", color=color, markersize=4, label=f"u of the {name} weight")
    change = next(number for number, z in enumerate(way.z) if z[0, 0] == 0)
    axis.axvline(change - 0.5, color=ORANGE, linewidth=1, linestyle="--")
    axis.set_ylim(top=1.35)
    for place, words, side in ((-6, "z keeps the first", "right"), (6, "z keeps the second", "left")):
        axis.annotate(words, (change - 0.5, 0.95), (place, 0), xycoords=("data", "axes fraction"), ha=side,
                      textcoords="offset points", color=ORANGE, fontsize=8)  # fmt: skip
    axis.set(xlabel="update of z and u", title="u gathers what z refuses")
    axis.legend(fontsize=8)


RUNS: dict[str, tuple[str, str]] = {
    "constant 0.0003": ("penalty=constant penalty.value=0.0003", PURPLE),
    "constant 1": ("penalty=constant penalty.value=1", RED),
    "cosine to 0.01": ("penalty=cosine", GREEN),
    "auto": ("penalty=auto", BLUE),
}
STEPS = 192
BUDGET = (
    "training=short", f"training.steps={STEPS}", "training.batch_size=1", "data.sequence_length=128",
    "method.interval=8", "probe_every=0", "eval.windows=32",
)  # fmt: skip


def draw_penalties(figure: Figure) -> None:
    """The schedules of λ, and the energy off the support of runs of the embedded model at 90 %."""
    left, right = figure.subplots(1, 2)
    progress = np.linspace(0, 1, 101)
    schedules: dict[str, Penalty] = {
        "constant": Constant(value=1), "linear": Linear(end=1), "cosine": Cosine(end=1),
        "exponential": Exponential(start=0.01, end=1),
    }  # fmt: skip
    for (name, penalty), color in zip(schedules.items(), (RED, ORANGE, GREEN, PURPLE), strict=True):
        left.plot(100 * progress, [penalty.at(float(p)) for p in progress], color=color, label=name)
    pull = [Auto().at(float(p)) / Auto().at(1.0) for p in progress]
    left.plot(100 * progress, pull, ":", color=BLUE, linewidth=2.5, label="auto: the pull of a step")
    left.set(xlabel="% of the steps", ylabel="λ over its largest", title="schedules of λ")
    left.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=3)
    for name, (penalty_of, color) in RUNS.items():
        run = prune("tiny", "elsa", 0.9, overrides=[*BUDGET, *penalty_of.split()])
        lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
        points = [
            (100 * line["step"] / STEPS, line["off_support_energy"]) for line in lines if "off_support_energy" in line
        ]
        label = f"{name}: perplexity {run.perplexity:,.0f}"
        right.plot(*zip(*points, strict=True), color=color, label=label)
    right.set(xlabel="% of the steps", ylabel="share of the energy", yscale="log", title="energy off the support")
    right.legend(fontsize=8, loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2)


def draw_rise(figure: Figure) -> None:
    """The gradual mask of BEST and of Elsa+, and when it stands still."""
    steps, pattern = 1000, Pattern(pattern="unstructured", ratio=0.9)
    axis = figure.subplots()
    for method, color in ((Best(), ORANGE), (ElsaPlus(), BLUE)):
        begins = method._ramp_start(pattern)
        rise = Rise(round(method.ramp_fraction * steps), begins)
        shares = [100 * rise.at(step, pattern).sparsity for step in range(steps + 1)]
        name = {"Best": "BEST, from dense weights", "ElsaPlus": "Elsa+, from ALPS at 65 %"}[type(method).__name__]
        axis.plot(np.arange(steps + 1) / 10, shares, color=color, label=name)
        end = 100 * method.ramp_fraction
        axis.axvline(end, color=color, linewidth=1, linestyle=":")
        height = 4 if color == ORANGE else 40
        axis.annotate("trains within\nits mask", (end + 1, height), color=color, fontsize=8)
    axis.set(xlabel="% of the steps", ylabel="% zeros", title="the sparsity rises by a cubic law to 90 %", ylim=(0, 95))
    axis.legend(fontsize=8, loc="lower right")


def draw_budget(figure: Figure) -> None:
    """Zeros of each weight of the embedded model at 80 %: equal shares, and one budget by w² times squared gradient."""
    model, tokenizer = load(ROOT / "elsa/model/tiny")
    weights = prunable_weights(model)
    reader = WindowReader(tokenizer=tokenizer, cache=Path.home() / ".cache/elsa")
    squares = squared_gradients(model, parameters_of(weights), reader.training(Stdlib(), 16, 0))

    def cost(name: str) -> torch.Tensor:
        return weights[name].value_OI.square() * weights[name].as_OI(squares[weights[name].parameter_name])

    zeros = allocate(cost, weights, 0.8)
    axis = figure.subplots()
    kinds = list(dict.fromkeys(name.split(".")[-2] for name in weights))
    colors = [BLUE, PURPLE, ORANGE, GREEN, RED, INK, "#b08d57"]
    for kind, color in zip(kinds, colors, strict=True):
        own = [name for name in weights if name.split(".")[-2] == kind]
        shares = [100 * zeros[name] / weights[name].numel for name in own]
        axis.plot(range(len(own)), shares, "o-", color=color, markersize=4, linewidth=1, label=kind)
    axis.axhline(80, color=INK, linestyle="--", linewidth=1)
    axis.annotate(
        "uniform", (1, 80), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points", va="center"
    )
    axis.set(xlabel="block", ylabel="% zeros", title="one budget for all weights at 80 %: where the zeros go")
    axis.set_xticks(range(len(own)))
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.35))


PICTURES: dict[str, tuple[Callable[[Figure], None], tuple[float, float]]] = {
    "plane": (draw_plane, (9.0, 3.8)),
    "dual": (draw_dual, (6.0, 3.0)),
    "penalties": (draw_penalties, (8.8, 3.9)),
    "rise": (draw_rise, (6.0, 3.2)),
    "budget": (draw_budget, (7.0, 3.4)),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--to", type=Path, default=ROOT / "docs/concepts/pictures")
    parser.add_argument("--only", choices=PICTURES, nargs="*", default=list(PICTURES))
    options = parser.parse_args()
    options.to.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE):
        for name in options.only:
            draw, size = PICTURES[name]
            figure = Figure(figsize=size, layout="constrained")
            draw(figure)
            figure.savefig(options.to / f"{name}.svg", metadata={"Date": None})


if __name__ == "__main__":
    main()
