"""`metrics.jsonl` in the run folder: a JSON object a line, written as it comes."""

import json
from dataclasses import dataclass
from pathlib import Path

from elsa.track import Tracker, TrackerSource


@dataclass(frozen=True, kw_only=True)
class Jsonl(TrackerSource):
    """One file a run; a run that starts again starts the file again."""

    def open(self, folder: Path, name: str, config: dict) -> Tracker:
        return JsonlTracker(folder / "metrics.jsonl")


class JsonlTracker:
    """Appends and flushes: a reader sees every line as soon as it is logged."""

    def __init__(self, path: Path):
        self._file = path.open("w")

    def log(self, step: int, metrics: dict) -> None:
        self._file.write(json.dumps({"step": step} | metrics) + "\n")
        self._file.flush()

    def close(self, summary: dict) -> None:
        self._file.close()
