"""`metrics.jsonl` in the run folder: a JSON object a line, written as it comes."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elsa.files import json_ready, write_atomically
from elsa.track import Outcome, TrackedRun, Tracker, TrackerSource

_FILE = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True)
class Jsonl(TrackerSource):
    """One file a run. A run that goes on keeps the lines up to the step it goes on from."""

    def open(self, run: TrackedRun) -> Tracker:
        return JsonlTracker(run)


class JsonlTracker:
    """Appends and flushes: a reader sees every line as soon as it is logged. `kept`: the lines of before."""

    def __init__(self, run: TrackedRun):
        path = run.folder / _FILE
        self.kept = [line for line in logged(run.folder) if run.step is None or line["step"] <= run.step]
        text = "".join(json.dumps(json_ready(line)) + "\n" for line in self.kept)
        write_atomically(path, lambda temporary: temporary.write_text(text))
        self._file = path.open("a")

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._file.write(json.dumps(json_ready({"step": step} | metrics)) + "\n")
        self._file.flush()

    def close(self, outcome: Outcome) -> None:
        self._file.close()


def logged(folder: Path) -> list[dict[str, Any]]:
    """What a run has logged so far, without the lines that a crash has left unfinished or full of zeros."""
    path = folder / _FILE
    lines = path.read_text(errors="replace").split("\n")[:-1] if path.is_file() else []
    whole = [parsed for parsed in map(_parsed, lines) if parsed is not None]
    return [{key: float(v) if isinstance(v, str) else v for key, v in line.items()} for line in whole]


def _parsed(line: str) -> dict[str, Any] | None:
    try:
        found = json.loads(line)
    except json.JSONDecodeError:
        return None
    return found if isinstance(found, dict) and isinstance(found.get("step"), int) else None
