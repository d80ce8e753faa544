"""`result.json`: what a run was, what it gave, and what it was made with. Written last, so its presence means done."""

import json
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path

from elsa.errors import UserError
from elsa.files import write_json

FORMAT = 2
_LIBRARIES = ("elsa", "torch", "transformers", "tokenizers", "datasets", "safetensors", "numpy", "hydra-core")


def write_record(folder: Path, record: dict) -> None:
    """Put `result.json` into the run folder, atomically."""
    write_json(folder / "result.json", {"format": FORMAT} | record)


def read_record(folder: Path) -> dict | None:
    """The record of a finished run, None if it is not finished. Raises `UserError` if the file is no record."""
    path = folder / "result.json"
    if not path.is_file():
        return None
    return _checked(path.read_text(), f"{path}")


def read_records(path: Path) -> list[dict]:
    """The records of a JSONL file, a line each. Raises `UserError` if a line is no record."""
    lines = path.read_text().splitlines()
    return [_checked(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]


def _checked(text: str, where: str) -> dict:
    try:
        record = json.loads(text)
    except json.JSONDecodeError as error:
        raise UserError(f"{where}: no valid JSON ({error}); delete it to run again") from error
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise UserError(f"{where}: not a record of format {FORMAT}; delete it to run again")
    return record


def environment() -> dict:
    """Versions of Python and the libraries, the platform, and the commit of the source tree (None outside git)."""
    here = Path(__file__).parent
    git = subprocess.run(["git", "-C", here, "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return {
        "python": platform.python_version(), "platform": platform.platform(),
        "libraries": {name: version(name) for name in _LIBRARIES}, "git_commit": git.stdout.strip() or None,
    }  # fmt: skip
