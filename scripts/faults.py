"""What the scripts that break runs share: short runs of every kind, when they touch the disk, and their result."""

import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # torchao's Adam compiles in every process anew

from elsa.files import file_hash

_TRAINING = [
    "training=short", "training.steps=8", "training.batch_size=1", "data.sequence_length=32", "eval.windows=2",
    "checkpoint.every_minutes=0", "probe_every=0",
]  # fmt: skip
RUNS = {
    "elsa": ["method=elsa", "method.interval=2", "sparsity.ratio=0.9", *_TRAINING],
    "elsa_plus": ["method=elsa_plus", "method.interval=1", "method.start=wanda", "sparsity.ratio=0.9", *_TRAINING],
    "elsa_l": ["method=elsa", "method.interval=2", "precision=elsa_l", "training.learning_rate=1e-4", *_TRAINING],
    "finetuned": ["method=finetuned", "method.start=magnitude", *_TRAINING],
    "wanda": ["method=wanda", "method.calibration_windows=4", "data.sequence_length=32", "eval.windows=2"],
}
Result = tuple[str, float]  # hash of the weights, and perplexity


def result(outputs: Path) -> Result:
    """Of the one run in `outputs` that is not the dense model's."""
    (folder,) = (path.parent for path in outputs.glob("runs/*/model") if path.is_dir())
    record = json.loads((folder / "result.json").read_text())
    perplexity = record["evaluations"][0]["perplexity"]["held_out"]["perplexity"]
    return file_hash(folder / "model/model.safetensors"), float(perplexity)


def leftovers(*folders: Path) -> list[Path]:
    """Files that are not whole."""
    return [path for folder in folders for path in folder.rglob(".*") if path.name != ".lock"]


def at_disk(places: list[Path], act: Callable[[int, str], object]) -> None:
    """Call `act(number, name)` in this process whenever it is about to write, move or remove something in `places`.

    `name`: of the file. Opening for writing, renaming, removing and flushing count; a process cannot undo this.
    """
    inside, numbers = tuple(map(str, places)), itertools.count(1)

    def touched(path: object) -> None:
        name = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
        if os.path.abspath(name).startswith(inside):  # noqa: PTH100 (called for every file)
            act(next(numbers), name)

    def audit(event: str, given: tuple[object, ...]) -> None:
        if (
            event == "open" and isinstance(given[2], int) and given[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        ) or event in ("os.rename", "os.remove", "os.mkdir", "os.rmdir"):
            touched(given[0])

    fsync = os.fsync

    def flushed(file: Any) -> None:
        number = file if isinstance(file, int) else file.fileno()
        touched(Path(f"/proc/self/fd/{number}").readlink())
        fsync(file)

    setattr(os, "fsync", flushed)  # noqa: B010 (mypy takes no other function for it)
    sys.addaudithook(audit)
