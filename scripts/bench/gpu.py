"""What a GPU makes of elsa, in parts that each run in a process of their own: one JSON, and a table of it.

python scripts/bench/gpu.py [--device cuda] [--size 7b] [--out outputs/gpu.json] [--parts card methods …]

It needs no network and no data but the embedded model and random weights. `--size toy --device cpu` tries the script
itself on any machine. At most 8 minutes; a part that fails or takes too long leaves the others.

    card       bandwidth of a copy, and rate of a bf16 matrix product
    methods    every method on the embedded model: perplexity on the device beside the CPU's
    resume     a run repeated, and one killed and started again: the same bits?
    training   LLaMA-2-7B's shape, random, as `precision=elsa_l`: peak against `plan`, a step against plain 8-bit Adam,
               seconds of an update, a selection and a checkpoint
    layers     seconds that layer-wise methods take for a model of one of its blocks
"""

import argparse
import json
import logging
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedModel

import elsa
from elsa.admm.engine import Admm
from elsa.admm.penalty import Auto
from elsa.admm.phases import Phases
from elsa.admm.state import start_state
from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.errors import in_one_line
from elsa.files import file_hash, write_json
from elsa.method.base import Task
from elsa.method.elsa import Elsa
from elsa.model.weights import prunable_weights
from elsa.plan.memory import measure, need
from elsa.sparsity.pattern import Pattern
from elsa.track.memory import peak_bytes, reset_peak
from elsa.train.budget import Training
from elsa.train.constraint import Constraint, NoConstraint
from elsa.train.optimizer import Optimizer
from elsa.train.sparse import Projection
from elsa.train.task import TrainingTask
from elsa.train.train import train

NINETY = Pattern(pattern="unstructured", ratio=0.9)
SHAPES: dict[str, dict[str, Any]] = {
    "7b": {
        "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
        "vocab_size": 32000,
    },
    "toy": {
        "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4,
        "vocab_size": 512,
    },
}  # fmt: skip
LENGTHS = {"7b": 2048, "toy": 64}
SHORT = ["training=short", "training.steps=64", "training.batch_size=4", "training.learning_rate=2e-3"]
SHORT += ["eval.windows=32"]
METHODS = {
    "dense": [], "magnitude": [], "wanda": [], "sparsegpt": [], "alps": [], "l_admm": [], "sparsellm": [], "safe": [],
    "elsa": SHORT, "elsa_plus": [*SHORT, "sparsity.allocation=global"], "finetuned/alps": SHORT,
}  # fmt: skip
Part = Callable[[str, str], dict[str, Any]]


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(device: str, work: Callable[[], object], rounds: int = 5) -> float:
    """Median time of `work`, after one call to warm up."""
    times = []
    for _ in range(rounds + 1):
        wait(device)
        start = time.perf_counter()
        work()
        wait(device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def card(device: str, size: str) -> dict[str, Any]:
    count, edge = (1 << 28, 8192) if size == "7b" else (1 << 20, 256)
    source, target = torch.ones(count, device=device), torch.empty(count, device=device)
    square = torch.randn(edge, edge, device=device, dtype=torch.bfloat16)
    copied, product = seconds(device, lambda: target.copy_(source)), seconds(device, lambda: square @ square)
    return {
        "name": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "torch": torch.__version__, "copy_gb_per_s": 2 * source.nbytes / copied / 1e9,
        "matmul_tflops": 2 * edge**3 / product / 1e12,
    }  # fmt: skip


def pruned(folder: Path, method: str, device: str, *more: str) -> elsa.Run:
    given = [f"paths.outputs={folder}/{device}", f"device={device}", "tracker=none", "seed=0", *more]
    return elsa.prune("tiny", method, 0.9, overrides=given)


def methods(device: str, size: str) -> dict[str, Any]:
    found = {}
    chosen = {name: METHODS[name] for name in (METHODS if size == "7b" else ("dense", "wanda", "elsa"))}
    with tempfile.TemporaryDirectory() as name:
        for method, given in chosen.items():
            runs = {each: pruned(Path(name), method, each, *given) for each in dict.fromkeys((device, "cpu"))}
            found[method] = {
                "perplexity": runs[device].perplexity, "cpu": runs["cpu"].perplexity,
                "seconds": runs[device].record["seconds"]["prune"], "zeros": runs[device].sparsity,
            }  # fmt: skip
    return found


def weights_of(folder: Path) -> str:
    return file_hash(next(folder.glob("runs/*-elsa-*/model/model.safetensors")))


def resume(device: str, size: str) -> dict[str, Any]:
    """A run, the same again, and one that is killed once it has saved a state and then called again."""
    fewer = ["training.steps=256"] if size == "7b" else ["training.steps=32", "training.batch_size=1"]

    def arguments(folder: Path) -> list[str]:
        return [
            sys.executable, "-m", "elsa.run.cli", "method=elsa", f"device={device}",
            "tracker=none", *SHORT, *fewer, "checkpoint.every_minutes=0.01", f"paths.outputs={folder}",
        ]  # fmt: skip

    with tempfile.TemporaryDirectory() as name:
        first, second, killed = (Path(name) / each for each in ("first", "second", "killed"))
        for folder in (first, second):
            subprocess.run(arguments(folder), check=True, capture_output=True)
        with subprocess.Popen(arguments(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            while process.poll() is None and not list(killed.glob("runs/*/checkpoints/step-*.pt")):
                time.sleep(0.01)
            process.kill()
        was_killed = process.returncode == -signal.SIGKILL
        said = subprocess.run(arguments(killed), check=True, capture_output=True, text=True)
        return {
            "repeat_same_bits": weights_of(first) == weights_of(second),
            "killed": was_killed, "went_on": "going on after step" in said.stdout + said.stderr,
            "resumed_same_bits": weights_of(first) == weights_of(killed),
        }  # fmt: skip


def random_model(device: str, size: str, dtype: torch.dtype, **changes: int) -> PreTrainedModel:
    """Random weights, made on the device. `changes`: of the shape."""
    torch.manual_seed(0)
    with torch.device(device):
        config = LlamaConfig(**SHAPES[size] | changes)
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=dtype)
    return model


def training(device: str, size: str) -> dict[str, Any]:
    steps, every, length = 16, 4, LENGTHS[size]
    reset_peak(device)
    model = random_model(device, size, torch.bfloat16)
    precision = build(PruneConfig, compose("precision=elsa_l")).precision
    budget = Training(steps=steps, batch_size=1, learning_rate=1e-5)
    windows = torch.randint(0, model.config.vocab_size, (steps, length)).int()
    found: dict[str, Any] = {}

    def step_ms(constrain: Callable[[Optimizer], Constraint]) -> float:
        """Median over the second half of the steps, without those that update z and u."""
        times = [time.perf_counter()]

        class Timed(NoConstraint):
            interval: int | None = every

            def __init__(self, inner: Constraint):
                self._inner = inner
                self.on_gradient, self.finish = inner.on_gradient, inner.finish  # type: ignore[method-assign]

            def after_step(self, step: int) -> dict[str, float]:
                metrics = self._inner.after_step(step)
                wait(device)
                times.append(time.perf_counter())
                return metrics

        task = TrainingTask(training=budget, precision=precision, windows=lambda count: windows[:count])
        train(model, lambda optimizer: Timed(constrain(optimizer)), task)
        taken = [after - before for before, after in pairwise(times)]
        return 1e3 * statistics.median(taken[n] for n in range(steps // 2, steps) if (n + 1) % every)

    def admm(optimizer: Optimizer) -> Admm:
        projection = Projection(
            weights=prunable_weights(model), optimizer=optimizer, objective_aware=True, pattern=NINETY
        )
        return Admm(projection, Auto(), precision, Phases(steps=steps, interval=every), budget)

    found["plain_ms_a_step"] = step_ms(lambda optimizer: NoConstraint())
    found["elsa_l_ms_a_step"] = step_ms(admm)
    found["ratio"] = found["elsa_l_ms_a_step"] / found["plain_ms_a_step"]
    found["peak_gb"] = peak_bytes(device) / 1e9
    shape = measure(model.config, budget, precision.weights, length)
    planned = need(shape, budget, precision, length, state=Elsa().state_bytes(precision), devices=1).peak
    found["planned_gb"] = planned / 1e9
    weight = next(iter(prunable_weights(model).values()))
    state, score = start_state(weight.value_OI, NINETY, precision), weight.value_OI.float().square()
    count = len(prunable_weights(model))
    found["update_s_all"] = count * seconds(device, lambda: state.update(weight.value_OI, NINETY))
    found["selection_s_all"] = count * seconds(device, lambda: NINETY.mask(score))
    with tempfile.TemporaryDirectory() as name:
        start = time.perf_counter()
        torch.save(model.state_dict(), f"{name}/state.pt")
        found["checkpoint_gb_per_s"] = Path(name, "state.pt").stat().st_size / 1e9 / (time.perf_counter() - start)
    return found


def layers(device: str, size: str) -> dict[str, Any]:
    """Each method on a model of one block, with the calibration forward."""
    windows = torch.randint(0, SHAPES[size]["vocab_size"], (4, LENGTHS[size])).int()
    found = {}
    for name in ("wanda", "sparsegpt", "alps", "l_admm"):
        model = random_model(device, size, dtype=torch.float32, num_hidden_layers=1)
        method = build(PruneConfig, compose(f"method={name}", f"method.calibration_windows={len(windows)}")).method
        wait(device)
        start = time.perf_counter()
        method.apply(model, Task(pattern=NINETY, windows=lambda count: windows[:count]))
        wait(device)
        found[f"{name}_s"] = time.perf_counter() - start
    return found


PARTS: dict[str, tuple[Part, int]] = {  # with the seconds that each may take of a GPU
    "card": (card, 40), "training": (training, 180), "layers": (layers, 90), "resume": (resume, 100),
    "methods": (methods, 180),
}  # fmt: skip


def run_part(name: str, options: argparse.Namespace, limit: float) -> dict[str, Any]:
    """What a part found in a process of its own, or why there is nothing."""
    given = [f"--only={name}", f"--device={options.device}", f"--size={options.size}"]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "found.json"
        command = [sys.executable, __file__, *given, f"--out={file}"]
        try:
            done = subprocess.run(command, timeout=limit, capture_output=True, text=True)
        except subprocess.TimeoutExpired:
            return {"failed": f"took more than {limit:.0f} s"}
        if done.returncode or not file.is_file():
            return {"failed": in_one_line(done.stderr[-400:]) or f"exit code {done.returncode}"}
        found: dict[str, Any] = json.loads(file.read_text())
        return found


def lines(found: dict[str, Any], before: str = "") -> list[str]:
    shown = []
    for key, value in found.items():
        if isinstance(value, dict):
            shown += lines(value, f"{before}{key}.")
        else:
            shown.append(
                f"  {before + key:<36} {value:,.4g}" if isinstance(value, float) else f"  {before}{key}: {value}"
            )
    return shown


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--size", default="7b", choices=tuple(SHAPES))
    parser.add_argument("--out", type=Path, default=Path("outputs/gpu.json"))
    parser.add_argument("--parts", nargs="*", choices=tuple(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=480, help="for all parts together")
    parser.add_argument("--only", choices=tuple(PARTS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.only:
        write_json(options.out, PARTS[options.only][0](options.device, options.size))
        return
    began, record = time.monotonic(), {"device": options.device, "size": options.size}
    for name in options.parts:
        left = options.seconds - (time.monotonic() - began)
        its_own = PARTS[name][1] if options.device == "cuda" else left
        record[name] = found = run_part(name, options, min(its_own, left))
        write_json(options.out, record)  # what there is, should a later part take the machine down
        print("\n".join([name, *lines(found)]), flush=True)
    failed = [name for name in options.parts if "failed" in record[name]]
    print(
        f"{options.out}: {len(options.parts) - len(failed)} of {len(options.parts)} parts, "
        f"{time.monotonic() - began:.0f} s"
    )
    sys.exit(bool(failed))


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    logging.getLogger("torch.utils._pytree").setLevel(logging.ERROR)
    main()
