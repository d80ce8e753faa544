"""What ADMM, and probing it, add to a training step: the same loop in turns; ratios of the medians.

python scripts/bench/admm_overhead.py [--model tiny] [--steps 128] [--rounds 10] [--kinds plain admm probed]

Beside them stands the share of a step that passes in ADMM's own calls, which a machine whose speed wanders by more than
that share can still tell.
"""

import argparse
import copy
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedModel

from elsa.admm.engine import Admm
from elsa.admm.penalty import Constant
from elsa.admm.phases import Phases
from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.model.weights import prunable_weights
from elsa.sparsity.pattern import Pattern
from elsa.train.budget import Training
from elsa.train.constraint import NoConstraint
from elsa.train.optimizer import Optimizer
from elsa.train.sparse import Projection
from elsa.train.task import TrainingTask
from elsa.train.train import train

KINDS = ("plain", "admm", "probed")


class TimedAdmm(Admm):
    """Counts the seconds that its calls take after step `first`."""

    first, within = 0, 0.0

    def on_gradient(self, name: str) -> None:
        began = time.perf_counter()
        super().on_gradient(name)
        self.within += time.perf_counter() - began

    def after_step(self, step: int) -> dict[str, float]:
        began = time.perf_counter()
        metrics = super().after_step(step)
        self.within = 0.0 if step == self.first else self.within + time.perf_counter() - began
        return metrics


def seconds_a_step(
    with_admm: bool, probed: bool, options: argparse.Namespace, model: PreTrainedModel
) -> Iterator[tuple[float, float]]:
    """A generator of timings: each `next` trains `options.steps` steps, the last one probed; seconds a step, and those
    of them in ADMM's own calls.

    The steps up to the first report, in which optimiser and constraint begin, are not timed.
    """
    shape = (options.steps * options.batch, options.length)
    windows = torch.randint(0, model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0)).int()
    times: dict[int, float] = {}
    task = TrainingTask(
        training=Training(
            steps=options.steps, batch_size=options.batch, learning_rate=1e-4, decay_fraction=0.0,
            autocast=options.autocast,
        ),
        precision=build(PruneConfig, compose(f"precision={options.precision}")).precision,
        windows=lambda count: windows[:count], log=lambda step, metrics: times.update({step: time.perf_counter()}),
        probe_every=options.steps if probed else 0,
    )  # fmt: skip

    made: list[TimedAdmm] = []

    def admm(optimizer: Optimizer) -> Admm:
        projection = Projection(
            weights=prunable_weights(model), optimizer=optimizer, objective_aware=True,
            pattern=Pattern(pattern="unstructured", ratio=0.9),
        )  # fmt: skip
        phases = Phases(steps=options.steps, interval=options.interval)
        constraint = TimedAdmm(
            projection, Constant(value=0.01), task.precision, phases, task.training, probe_every=task.probe_every
        )
        constraint.first = options.interval
        made.append(constraint)
        return constraint

    steps = options.steps - options.interval
    while True:
        times.clear()
        made.clear()
        train(model, admm if with_admm else lambda optimizer: NoConstraint(), task)
        within = sum(each.within for each in made)
        yield (times[options.steps] - times[options.interval]) / steps, within / steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="a choice of conf/model")
    parser.add_argument("--precision", default="elsa", help="a choice of conf/precision")
    parser.add_argument("--autocast", default="none", help="bfloat16 is what GPUs train in; many CPUs only emulate it")
    parser.add_argument("--interval", type=int, default=32, help="of updates and reports: 32, which plain training has")
    parser.add_argument("--steps", type=int, default=128, help="of a round, which ends with a probe")
    parser.add_argument("--rounds", type=int, default=10, help="of each kind, in turns")
    parser.add_argument("--kinds", nargs="+", default=KINDS, choices=KINDS)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    options = parser.parse_args()

    run = build(PruneConfig, compose(f"model={options.model}"))
    model, _ = run.model.load(Path(run.paths.cache), "cpu")
    timings = {
        kind: seconds_a_step(kind != "plain", kind == "probed", options, copy.deepcopy(model)) for kind in options.kinds
    }
    times: dict[str, list[tuple[float, float]]] = {kind: [] for kind in timings}
    for _ in range(options.rounds):
        for kind, its_timings in timings.items():
            times[kind].append(next(its_timings))
    print(f"{options.model}, {options.batch} x {options.length} tokens a step, interval {options.interval}")
    medians = {}
    for kind, found in times.items():
        steps = [whole for whole, _ in found]
        medians[kind] = statistics.median(steps)
        low, high = (1e3 * bound(steps) for bound in (min, max))
        share = statistics.median(part / whole for whole, part in found)
        own = "" if kind == "plain" else f"; {share:.1%} in its own calls, so {1 / (1 - share):.3f} of plain"
        print(f"  {kind:<8} {medians[kind] * 1e3:8.1f} ms a step (from {low:.1f} to {high:.1f}){own}")
    if {"plain", "admm"} <= medians.keys():
        print(f"  admm / plain   {medians['admm'] / medians['plain']:.3f}")
    if {"admm", "probed"} <= medians.keys():
        print(f"  probed / admm  {medians['probed'] / medians['admm']:.3f}, one probe in {options.steps} steps")


if __name__ == "__main__":
    main()
