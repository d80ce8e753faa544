"""Files that are whole or absent, and the hashes that name content."""

import hashlib
import importlib.util
import json
import math
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

_LARGE = 1 << 24  # bytes, hashed in a hundredth of a second


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary)` beside `path`, flush it to disk and rename: readers see the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove temporary files that a killed process left beside `path`; for a folder that only one process writes to."""
    for leftover in path.parent.glob(f".*{path.suffix}"):
        leftover.unlink()


def write_folder_atomically(path: Path, *writers: Callable[[Path], object]) -> None:
    """Call every writer on a temporary folder beside `path`, then put it in the place of `path`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}.", ignore_cleanup_errors=True) as name:
        temporary = Path(name)
        for write in writers:
            write(temporary)
        temporary.chmod(0o755)
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    folders = None if spec is None else spec.submodule_search_locations
    assert folders, f"{name} is no installed package"
    return Path(folders[0])


def write_json(path: Path, content: object) -> None:
    """Write `content` as indented JSON, atomically. What is no number in JSON becomes "inf", "-inf" or "nan"."""
    text = json.dumps(json_ready(content), indent=2, allow_nan=False) + "\n"
    write_atomically(path, lambda temporary: temporary.write_text(text))


def json_ready(content: Any) -> Any:
    """`content` with floats that JSON has no numbers for as words, which `float` reads back."""
    if isinstance(content, dict):
        return {key: json_ready(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [json_ready(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote, None if there is no such file."""
    return json.loads(path.read_text()) if path.is_file() else None


def flattened(tree: dict[str, Any], prefix: str = "") -> dict[str, object]:
    """{"a.b": 1} of {"a": {"b": 1}}."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        flat |= flattened(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def content_hash(content: object, digits: int = 12) -> str:
    """First hex digits of the SHA-256 of `content` as canonical JSON (keys sorted, no spaces)."""
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()[:digits]


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def known_hash(path: Path, cache: Path) -> str:
    """`file_hash`, remembered in `cache` for large files while their size, inode and times stay as they are."""
    found = path.stat()
    if found.st_size < _LARGE:
        return file_hash(path)
    # the change time cannot be set by hand: a file that was written to and dated back is read again
    stamp = [str(path.resolve()), found.st_size, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
    kept = cache / "hashes" / f"{content_hash(stamp, 24)}.json"
    known = read_json(kept)
    if known is None:
        known = {"stamp": stamp, "sha256": file_hash(path)}
        write_json(kept, known)
    return str(known["sha256"])
