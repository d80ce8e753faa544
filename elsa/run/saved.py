"""The record that belongs to a saved model."""

from typing import Any

from elsa.config.commands import SavedModel
from elsa.files import read_text
from elsa.record.record import Record, parsed, read_record


def record_of(saved: SavedModel) -> Record | None:
    """That of its run, beside the model's folder or, once exported, in it; None if there is none.

    Raises `UserError` if it is broken.
    """
    beside = saved.model_folder / "record.json"
    if beside.is_file():
        return parsed(read_text(beside), str(beside))
    return None if saved.record_folder is None else read_record(saved.record_folder)


def left_out(record: Record | None) -> list[str]:
    """The names of the weights that a run could have pruned and was told not to."""
    coverage: dict[str, Any] = (record or {}).get("coverage") or {}
    return list(coverage.get("left_out", ()))
