"""What ADMM, and probing it, add to a training step: the same loop in turns; ratios of the medians.

python scripts/bench/admm_overhead.py [--model tiny] [--interval 32] [--steps 128] [--rounds 10]
"""

import argparse
import copy
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from elsa.admm.engine import Admm
from elsa.admm.loop import Constraint, Loop, NoConstraint
from elsa.admm.optimizer import Stepper
from elsa.admm.penalty import Constant
from elsa.admm.training import Training
from elsa.config.compose import compose
from elsa.config.schema import PruneConfig, build
from elsa.model.prunable import prunable_weights
from elsa.sparsity.pattern import Pattern


def seconds_a_step(
    with_admm: bool, probed: bool, options: argparse.Namespace, model: torch.nn.Module
) -> Iterator[float]:
    """A generator of timings: each `next` trains `options.steps` steps, the last one probed; seconds a step."""
    probe_every = options.steps if probed else 0
    training = Training(
        steps=options.steps, batch_size=options.batch, accumulation=1, optimizer="adam", learning_rate=1e-4,
        warmup_steps=0, decay_fraction=0.0, beta1=0.9, beta2=0.95, gradient_clip=1.0, autocast="bfloat16",
        distillation=0.0, distinct_windows=None,
    )  # fmt: skip
    precision = build(PruneConfig, compose(f"precision={options.precision}")).precision
    stepper = Stepper(model.parameters(), training, precision)
    constraint: Constraint = NoConstraint()
    if with_admm:
        constraint = Admm(
            prunable_weights(model), stepper, Pattern(pattern="unstructured", ratio=0.9), Constant(value=0.01),
            precision, steps=options.steps * (options.rounds + 1), interval=options.interval, objective_aware=True,
            probe_every=probe_every,
        )  # fmt: skip
    shape = (options.steps * options.batch, options.length)
    windows = torch.randint(0, model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    model.train()
    while True:
        start = time.perf_counter()
        loop = Loop(model, stepper, training, precision, constraint, probe_every=probe_every)
        loop.run(windows.int(), lambda step, metrics: None)
        yield (time.perf_counter() - start) / options.steps


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny", help="a choice of conf/model")
    parser.add_argument("--precision", default="elsa", help="a choice of conf/precision")
    parser.add_argument("--interval", type=int, default=32)
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
