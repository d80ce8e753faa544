"""What the commands are given that make something of a saved model."""

from dataclasses import dataclass
from pathlib import Path

from elsa.config.commands import Paths, SavedModel
from elsa.export.writing import Format


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
