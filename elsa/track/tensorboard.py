"""TensorBoard event files beside `metrics.jsonl`: a local viewer for those without Weights & Biases."""

import importlib.util
from dataclasses import dataclass

import numpy as np
from PIL import Image

from elsa.errors import UserError
from elsa.track import Outcome, TrackedRun, Tracker, TrackerSource
from elsa.track.jsonl import JsonlTracker


@dataclass(frozen=True, kw_only=True)
class Tensorboard(TrackerSource):
    """Look at it with `tensorboard --logdir outputs/runs`."""

    def open(self, run: TrackedRun) -> Tracker:
        if importlib.util.find_spec("tensorboard") is None:
            raise UserError("tracker=tensorboard: it is not installed; run: pip install elsa[tensorboard]")
        return TensorboardTracker(run)


class TensorboardTracker:
    """A run that goes on replaces what it had written after the step it goes on from."""

    def __init__(self, run: TrackedRun):
        from torch.utils.tensorboard import SummaryWriter  # an optional extra, and slow to import

        self._jsonl = JsonlTracker(run)
        self._writer = SummaryWriter(
            str(run.folder / "tensorboard"), purge_step=None if run.step is None else run.step + 1
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._jsonl.log(step, metrics)
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self, outcome: Outcome) -> None:
        self._jsonl.close(outcome)
        for name, value in outcome.summary.items():
            self._writer.add_scalar(name, value)
        for name, rows in outcome.tables.items():
            lines = ["| " + " | ".join(map(str, row)) + " |" for row in rows]
            self._writer.add_text(name, "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]]))
        for name, path in outcome.pictures.items():
            with Image.open(path) as picture:
                self._writer.add_image(name, np.asarray(picture.convert("RGB")), dataformats="HWC")
        self._writer.close()
