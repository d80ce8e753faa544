"""What the commands are given that make something of a saved model."""

from dataclasses import dataclass
from pathlib import Path

from elsa.config.commands import Paths, SavedModel
from elsa.errors import require
from elsa.export.writing import DTYPES, Format


@dataclass(frozen=True, kw_only=True)
class ExportConfig(SavedModel):
    """A saved model in fewer bytes. `dtype`: that of `export`. `to`: null for a folder beside the model.

    `evaluate`: whether to score it as its run was scored; null for int8 alone.
    """

    dtype: str
    export: Format
    to: str | None
    evaluate: bool | None
    paths: Paths

    @property
    def folder(self) -> Path:
        """Where it goes."""
        if self.to is not None:
            return Path(self.to)
        if self.record_folder is not None:
            return self.record_folder / "exports" / self.export.name
        folder = self.model_folder.resolve()
        return folder.parent / f"{folder.name}-{self.export.name}"


@dataclass(frozen=True, kw_only=True)
class BenchConfig(SavedModel):
    """Timing a saved model's decoding. `batch`: sizes, one after the other. `prompt`, `tokens`: read, and then decoded.

    `dense`: dtypes of the dense model, the last of which the sparse one is in, too. `forms`: of sparse matrices; null
    for all that run here. `compile`: whether also with a decode step that torch.compile has made. `threads`: null for
    those that torch takes.
    """

    batch: list[int]
    prompt: int
    tokens: int
    rounds: int
    dense: list[str]
    forms: list[str] | None
    compile: bool
    threads: int | None
    device: str
    paths: Paths

    def __post_init__(self) -> None:
        require(bool(self.batch) and min(self.batch) >= 1, "batch", self.batch, "sizes from 1 up, for example [1,4]")
        for key in ("prompt", "tokens"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        require(self.rounds >= 2, "rounds", self.rounds, "at least 2, so that there is an interval")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "at least 1, or null")
        unknown = [dtype for dtype in self.dense if dtype not in DTYPES]
        known = f"from {', '.join(DTYPES)}, at least one"
        require(bool(self.dense) and not unknown, "dense", self.dense, known)
