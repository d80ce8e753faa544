"""Files that are whole or absent, and the hashes that name content."""

import errno
import hashlib
import importlib.util
import json
import math
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from elsa.errors import LONGEST_NAME, UserError, in_one_line, require

_LARGE = 1 << 24  # bytes, hashed in a hundredth of a second
_MARK = ".part-"  # in the name of whatever is not whole yet
_DAY = 86400.0  # seconds, longer than any write takes
_LONG = 200  # characters of a line
_JSON_NAMES = {list: "a list", str: "a string", bool: "a truth value", type(None): "null"}


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(temporary)` beside `path`, flush it to disk and rename: readers see the old file or the new one.

    Raises `UserError` that names `path` where the system refuses: a full disk, a folder that may not be written to.
    """
    with explained(path, "written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_leftovers(path.parent, _DAY)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}{_MARK}", suffix=path.suffix)
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


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    write_atomically(path, lambda temporary: temporary.write_text(text, encoding="utf-8"))


def write_folder_atomically(path: Path, *writers: Callable[[Path], object]) -> None:
    """Call every writer on a temporary folder beside `path`, then put it in the place of `path`. Errors as above."""
    with explained(path, "written"), folder_for_all(path, lambda do: do()) as temporary:
        for write in writers:
            write(temporary)


@contextmanager
def folder_for_all(path: Path, once: Callable[[Callable[[], Any]], Any]) -> Iterator[Path]:
    """A temporary folder that several processes write to together; it takes the place of `path` when all are done.

    `once(do)`: what one of them does for all, `elsa.distributed.ranks.Ranks.once`. Raises `UserError` as above.
    """

    def make() -> Path:
        with explained(path, "written"):
            path.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(path.parent, _DAY)
            return Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}{_MARK}"))

    def put() -> None:
        with explained(path, "written"):
            temporary.chmod(0o755)
            remove(path)
            temporary.rename(path)

    def clear() -> None:
        with suppress(OSError):
            remove(temporary)

    temporary: Path = once(make)
    try:
        yield temporary
        once(put)
    finally:
        once(clear)


def remove_leftovers(folder: Path, older_than: float = 0.0) -> None:
    """Remove the temporary files and folders that killed processes left in `folder`.

    `older_than`: seconds; 0 is for a folder that only one process writes to.
    """
    for leftover in folder.glob(f".*{_MARK}*"):
        with suppress(OSError):  # another process is at the same work
            if time.time() - leftover.lstat().st_mtime >= older_than:
                remove(leftover)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with all that it holds; nothing where there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def remove_if_only(folder: Path, names: set[str]) -> None:
    """Remove a folder that holds nothing but these: what was refused before it began leaves none."""
    if folder.is_dir() and {path.name for path in folder.iterdir()} <= names:
        shutil.rmtree(folder)


@contextmanager
def explained(path: Path, done: str) -> Iterator[None]:
    """Turn what the system refuses inside into a `UserError`: "`path`: cannot be `done`: No space left on device"."""
    try:
        yield
    except OSError as error:
        if error.errno is None:  # not of the system
            raise
        raise UserError(f"{path}: cannot be {done}: {os.strerror(error.errno)}") from error
    except Exception as error:  # libraries have errors of their own for a full disk
        if os.strerror(errno.ENOSPC) not in str(error):
            raise
        raise UserError(f"{path}: cannot be {done}: {os.strerror(errno.ENOSPC)}") from error


def make_folder(path: Path) -> None:
    """Make a folder with all above it. Raises `UserError` where the system refuses."""
    with explained(path, "made"):
        path.mkdir(parents=True, exist_ok=True)


def check_writable(key: str, folder: Path) -> None:
    """Raise `UserError` that names `key` if files cannot be made in `folder`. What is missing of it is not made."""
    there = folder.absolute()
    try:
        while not _is_there(there):
            there = there.parent
        require(there.is_dir(), key, folder, f"{there} is no folder")
        with tempfile.NamedTemporaryFile(dir=there, prefix=f".writable{_MARK}") as file:
            file.write(b"1")
    except OSError as error:
        what = f"cannot be written to: {os.strerror(error.errno or 0)}"
        raise UserError(f"{key}={_short(folder)}: {what}; give a folder that can") from error


def _is_there(path: Path) -> bool:
    """As `Path.exists`, but a link that leads nowhere is there. Raises `OSError` for a name that is too long."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _short(path: Path) -> str:
    text = str(path)
    return text if len(text) <= _LONG else f"{text[:_LONG]}… ({len(text)} characters)"


def file_name(text: str) -> str:
    """`text` as a part of a path: what `require_name` would refuse becomes "_"."""
    kept = re.sub(r"[^A-Za-z0-9._-]", "_", text)[:LONGEST_NAME]
    return f"_{kept[1:]}" if kept.startswith(".") or not kept else kept


def package_folder(name: str) -> Path:
    """Where an installed package lies, without importing it."""
    spec = importlib.util.find_spec(name)
    folders = None if spec is None else spec.submodule_search_locations
    assert folders, f"{name} is no installed package"
    return Path(folders[0])


def write_json(path: Path, content: object) -> None:
    """Write `content` as indented JSON, atomically. What is no number in JSON becomes "inf", "-inf" or "nan"."""
    write_text(path, json.dumps(json_ready(content), indent=2, allow_nan=False) + "\n")


def json_ready(content: Any) -> Any:
    """`content` with floats that JSON has no numbers for as words, which `float` reads back."""
    if isinstance(content, dict):
        return {key: json_ready(value) for key, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [json_ready(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


def read_json(path: Path) -> dict[str, Any] | None:
    """What `write_json` wrote, None if there is nothing. Raises `UserError` if it is no JSON object, or no file."""
    return json_object(read_text(path), str(path)) if os.path.lexists(path) else None


def read_text(path: Path) -> str:
    """The text of a UTF-8 file. Raises `UserError` if it is none."""
    if not path.is_file():
        raise UserError(f"{path}: no file")
    with explained(path, "read"):
        content = path.read_bytes()
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: no UTF-8 text ({error.reason} at byte {error.start})") from error


def last_lines(log: Path, count: int) -> list[str]:
    """The last lines of a process's output, at most `count`; a bar that redraws itself counts as its last state."""
    if not log.is_file():
        return []
    lines = [line.split("\r")[-1].rstrip() for line in log.read_text(errors="replace").splitlines()]
    return [line for line in lines if line][-count:]


def json_object(text: str, where: str) -> dict[str, Any]:
    """The JSON object in a text. Raises `UserError` that names `where` if there is none that could be written again."""
    try:
        found = json.loads(text)
        json.dumps(found, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no valid JSON ({in_one_line(error, _LONG)})") from error
    if not isinstance(found, dict):
        raise UserError(f"{where}: no valid JSON object, but {_JSON_NAMES.get(type(found), 'a number')}")
    return found


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
    known = remembered(kept) or {}
    if known.get("stamp") != stamp or not isinstance(known.get("sha256"), str):
        known = {"stamp": stamp, "sha256": file_hash(path)}
        write_json(kept, known)
    return str(known["sha256"])


def remembered(path: Path) -> dict[str, Any] | None:
    """What is kept in a file of a cache; None if there is none, or if it is broken, for it can be found anew."""
    try:
        return read_json(path)
    except UserError:
        return None
