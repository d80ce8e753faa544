"""What ADMM, and probing it, add to a training step: the same loop in turns; ratios of the medians.

python scripts/bench/admm_overhead.py [--model tiny] [--steps 128] [--rounds 10]
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


def seconds_a_step(
    with_admm: bool, probed: bool, options: argparse.Namespace, model: PreTrainedModel
) -> Iterator[float]:
    """A generator of timings: each `next` trains `options.steps` steps, the last one probed; seconds a step.

    The steps up to the first report, in which optimiser and constraint begin, are not timed.
    """
    shape = (options.steps * options.batch, options.length)
    windows = torch.randint(0, model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0)).int()
    times: dict[int, float] = {}
    task = TrainingTask(
        training=Training(steps=options.steps, batch_size=options.batch, learning_rate=1e-4, decay_fraction=0.0),
        precision=build(PruneConfig, compose(f"precision={options.precision}")).precision,
        windows=lambda count: windows[:count], log=lambda step, metrics: times.update({step: time.perf_counter()}),
        probe_every=options.steps if probed else 0,
    )  # fmt: skip

    def admm(optimizer: Optimizer) -> Admm:
        projection = Projection(
            weights=prunable_weights(model), optimizer=optimizer, objective_aware=True,
            pattern=Pattern(pattern="unstructured", ratio=0.9),
        )  # fmt: skip
        phases = Phases(steps=options.steps, interval=options.interval)
        return Admm(
            projection, Constant(value=0.01), task.precision, phases, task.training, probe_every=task.probe_every
        )

    while True:
        times.clear()
        train(model, admm if with_admm else lambda optimizer: NoConstraint(), task)
        yield (times[options.steps] - times[options.interval]) / (options.steps - options.interval)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="a choice of conf/model")
    parser.add_argument("--precision", default="elsa", help="a choice of conf/precision")
    parser.add_argument("--interval", type=int, default=32, help="of updates and reports: 32, which plain training has")
    parser.add_argument("--steps", type=int, default=128, help="of a round, which ends with a probe")
    parser.add_argument("--rounds", type=int, default=10, help="timed rounds of each kind, after one of warm-up")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--length", type=int, default=256)
    options = parser.parse_args()

    run = build(PruneConfig, compose(f"model={options.model}"))
    model, _ = run.model.load(Path(run.paths.cache), "cpu")
    kinds = {
        "plain": seconds_a_step(False, False, options, copy.deepcopy(model)),
        "admm": seconds_a_step(True, False, options, copy.deepcopy(model)),
        "probed": seconds_a_step(True, True, options, model),
    }
    times: dict[str, list[float]] = {name: [] for name in kinds}
    for turn in range(options.rounds + 1):
        for name, timings in kinds.items():
            seconds = next(timings)
            if turn:
                times[name].append(seconds)
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"{options.model}, {options.batch} x {options.length} tokens a step, interval {options.interval}")
    for name, value in medians.items():
        low, high = (1e3 * bound(times[name]) for bound in (min, max))
        print(f"  {name:<8} {value * 1e3:8.1f} ms a step (from {low:.1f} to {high:.1f})")
    print(f"  admm / plain   {medians['admm'] / medians['plain']:.3f}")
    print(f"  probed / admm  {medians['probed'] / medians['admm']:.3f}, one probe in {options.steps} steps")


if __name__ == "__main__":
    main()
