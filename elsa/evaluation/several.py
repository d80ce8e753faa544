"""Several evaluations of one model."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from elsa.data.windows import WindowReader
from elsa.errors import under
from elsa.evaluation.base import Evaluation, Subject


@dataclass(frozen=True, kw_only=True)
class Several(Evaluation):
    """All `parts`, one after the other."""

    parts: dict[str, Evaluation]

    def check(self) -> None:
        for name, part in self.parts.items():
            with under(f"parts.{name}"):
                part.check()

    def identity(self, cache: Path) -> dict[str, Any]:
        return {"parts": {name: part.identity(cache) for name, part in self.parts.items()}}

    def fetch(self, mirror: Path) -> None:
        for part in self.parts.values():
            part.fetch(mirror)

    def prepare(self, reader: WindowReader) -> dict[str, Any]:
        return {name: part.prepare(reader) for name, part in self.parts.items()}

    def evaluate(self, subject: Subject, prepared: dict[str, Any]) -> dict[str, dict[str, Any]]:
        scores: dict[str, dict[str, Any]] = {}
        for name, part in self.parts.items():
            for kind, found in part.evaluate(subject, prepared[name]).items():
                scores[kind] = scores.get(kind, {}) | found
        return scores
