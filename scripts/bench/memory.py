"""Peak memory of a few Elsa steps in each precision, a process each, beside what `elsa plan` predicts.

python scripts/bench/memory.py [--model smollm2_135m] [--precisions elsa elsa_l_paper elsa_l] [--devices 1]

Measured is the peak of the resident set minus what the process holds before the model is loaded; on several devices
that of the process with the highest, with its shard alone. Run it with MALLOC_MMAP_THRESHOLD_=65536, so that the C
library gives back what was freed, as a GPU's allocator reuses it.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path

import torch

from elsa.admm.penalty import Constant
from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.distributed.launch import launch
from elsa.distributed.ranks import join, leave
from elsa.log import is_first
from elsa.method.base import Task
from elsa.method.elsa import Elsa
from elsa.plan.memory import measure, need
from elsa.sparsity.pattern import Pattern
from elsa.track.memory import peak_bytes, reset_peak

STEPS = 4


def run_of(options: argparse.Namespace, precision: str) -> PruneConfig:
    return build(
        PruneConfig,
        compose(
            f"model={options.model}", f"precision={precision}", f"precision.loss_chunk={options.chunk}",
            f"training.steps={STEPS}", f"training.batch_size={options.batch}", f"devices={options.devices}",
            f"model.dtype={'bfloat16' if precision == 'elsa_l' else 'float32'}",
        ),
    )  # fmt: skip


def measured(options: argparse.Namespace, precision: str) -> dict[str, float]:
    """In this process: load, train STEPS steps with one z/u update; bytes."""
    run = run_of(options, precision)
    ranks = join("cpu")
    reset_peak("cpu")
    before = peak_bytes("cpu")
    model, _ = run.model.load(Path(run.paths.cache), "cpu")
    shape = (STEPS * options.batch, options.length)
    windows = torch.randint(0, model.config.vocab_size, shape, generator=torch.Generator().manual_seed(0))
    task = Task(
        pattern=Pattern(pattern="unstructured", ratio=0.7), training=run.training, precision=run.precision,
        penalty=Constant(value=0.01), windows=lambda count: windows[:count], ranks=ranks,
        log=lambda step, metrics: reset_peak("cpu") if step == 2 else None,  # the whole model has gone by then
    )  # fmt: skip
    held = sum(Elsa(interval=2).apply(model, task)["bytes"].values())
    peaks = ranks.gather(peak_bytes("cpu") - before)
    leave(ranks)
    return {"peak": max(peaks), "held": held}


def predicted(options: argparse.Namespace, precision: str) -> float:
    run = run_of(options, precision)
    shape = measure(run.model.sizes(Path(run.paths.cache)), run.training, run.precision.weights, options.length)
    state = Elsa().state_bytes(run.precision)
    return need(shape, run.training, run.precision, options.length, state=state, devices=options.devices).peak


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2_135m", help="a choice of conf/model")
    parser.add_argument("--precisions", nargs="+", default=["elsa", "elsa_l_paper", "elsa_l"])
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--chunk", type=int, default=256)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--inside", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        precision, out = options.inside
        found = measured(options, precision)
        if is_first():
            Path(out).write_text(json.dumps(found))
        return
    print(f"{options.model}, steps of {options.batch} x {options.length} tokens, logits of {options.chunk} at once")
    for precision in options.precisions:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder, "found.json")
            command = [sys.executable, __file__, *sys.argv[1:], "--inside", precision, str(out)]
            if launch(command, options.devices, Path(folder, "ranks")):
                raise SystemExit(f"{precision} failed")
            found = json.loads(out.read_text())
        wanted = predicted(options, precision)
        peaks = f"measured {found['peak'] / 2**30:.2f} GiB, predicted {wanted / 2**30:.2f} GiB"
        peaks += f" ({wanted / found['peak'] - 1:+.0%})"
        print(f"  {precision:<14} {found['held']:5.2f} bytes a prunable weight, peak {peaks}", flush=True)


if __name__ == "__main__":
    main()
