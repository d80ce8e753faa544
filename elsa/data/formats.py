"""Files → documents: plain text, JSON lines, JSON, CSV and Parquet, compressed or not; what is none of it is refused.

Nothing is guessed and nothing replaced: text is UTF-8 (a byte order mark is taken off), and what cannot be read is
named with its file and line.
"""

import csv
import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
from pyarrow import parquet

from elsa.errors import UserError, in_one_line

_log = logging.getLogger(__name__)
_COMPRESSED = (".gz", ".bz2", ".zst", ".lz4")
_BYTE_ORDER_MARKS = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16"}


class NotTextError(UserError):
    """A file that holds no text at all: left aside in a folder, refused where it was named."""


def files_of(name: str) -> list[Path]:
    """The file of that name, or all files of a folder; hidden ones and those of hidden folders are no part of it."""
    root = Path(name)
    if not root.is_dir():
        return [root]
    inside = (path for path in root.rglob("*") if path.is_file())
    return sorted(path for path in inside if not any(part.startswith(".") for part in path.relative_to(root).parts))


def format_of(path: Path) -> tuple[str, str]:
    """The suffix that says how a file is read, and that of its compression; "" for none."""
    suffixes = [suffix.lower() for suffix in path.suffixes]
    compression = suffixes.pop() if suffixes and suffixes[-1] in _COMPRESSED else ""
    return (suffixes[-1] if suffixes else ""), compression


def fault_of_text(value: object) -> str:
    """What is wrong with the text of a row, "" for nothing."""
    if not isinstance(value, str):
        return f"is {kind_of(value)}, no text"
    if not value.isascii() and any("\ud800" <= letter <= "\udfff" for letter in value):
        return "holds half a surrogate pair, which is no valid text"
    return ""


Fault = Callable[[object], str]  # of a document


def read_documents(name: str, column: str = "text", fault: Fault = fault_of_text) -> list[Any]:
    """The documents of a file or folder, in the order of the paths; those of tables stand in `column`.

    Raises `UserError` for a named file without documents, for a broken line in any file, for a document with a `fault`,
    and for a folder that gives none.
    """
    if not Path(name).is_dir():
        return _read(Path(name), column, fault)
    texts, read, aside = list[Any](), 0, list[str]()
    for path in files_of(name):
        try:
            texts += _read(path, column, fault)
            read += 1
        except NotTextError as error:
            aside.append(str(error))
    left = f"; {len(aside)} left aside ({'; '.join(aside[:3])}{'; …' if len(aside) > 3 else ''})" if aside else ""
    if not texts:
        raise UserError(f"{name}: no text in this folder{left}")
    _log.info("%s: %d documents of %d files%s", name, len(texts), read, left)
    return texts


def _read(path: Path, column: str, fault: Fault) -> list[Any]:
    try:
        if path.stat().st_size == 0:
            raise NotTextError(f"{path}: the file is empty")
        rows = _rows(path, format_of(path)[0], column)
        if rows is None:
            return [_plain(path, fault)]
        texts = [_document(row, column, where, fault, number == 0) for number, (row, where) in enumerate(rows)]
    except (OSError, pyarrow.ArrowException) as error:
        raise UserError(f"{path}: cannot be read ({in_one_line(error, 200)})") from error
    if not texts:
        raise NotTextError(f"{path}: the file has no rows")
    return texts


def _plain(path: Path, fault: Fault) -> str:
    text = _decoded(path)
    if wrong := fault(text):
        raise NotTextError(f"{path}: its plain text {wrong}")
    return text


def _decoded(path: Path) -> str:
    """The file's text, with every end of line as \\n."""
    with pyarrow.input_stream(str(path), compression="detect") as file:
        data: bytes = file.read()
    for mark, name in _BYTE_ORDER_MARKS.items():
        if data.startswith(mark):
            raise UserError(f"{path}: {name} text; UTF-8 is wanted (iconv -f {name} -t UTF-8 converts it)")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        binary = b"\0" in data
        kind, what = (NotTextError, "binary, no text") if binary else (UserError, "no UTF-8 text")
        raise kind(f"{path}: {what} (byte 0x{data[error.start]:02x} in line {line})") from error
    if "\0" in text:
        raise NotTextError(
            f"{path}: binary, no text (a NUL byte in line {text.count(chr(10), 0, text.index(chr(0))) + 1})"
        )
    if not text.strip():
        raise NotTextError(f"{path}: the file holds no words")
    return text.replace("\r\n", "\n").replace("\r", "\n")


Rows = Iterator[tuple[Any, str]]  # a row, and where it stands


def _rows(path: Path, kind: str, column: str) -> Rows | None:
    """The rows of a table, None for plain text."""
    match kind:
        case ".jsonl" | ".ndjson":
            return _json_lines(path)
        case ".json":
            return _json(path)
        case ".csv" | ".tsv":
            return _separated(path, "," if kind == ".csv" else "\t")
        case ".parquet":
            return _parquet(path, column)
    return None


def _json_lines(path: Path) -> Rows:
    for number, line in enumerate(_decoded(path).rstrip("\n").split("\n"), 1):
        yield _parsed(line, f"{path}:{number}"), f"{path}:{number}"


def _json(path: Path) -> Rows:
    """One object, a list of them, or, as many data sets have it, an object in every line."""
    text = _decoded(path)
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not str(error).startswith("Extra data"):
            raise UserError(f"{path}: no valid JSON ({error})") from error
        yield from _json_lines(path)
        return
    rows = found if isinstance(found, list) else [found]
    yield from ((row, f"{path}, item {number}") for number, row in enumerate(rows, 1))


def _parsed(line: str, where: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{where}: no valid JSON ({error})") from error


def _separated(path: Path, delimiter: str) -> Rows:
    csv.field_size_limit(sys.maxsize)  # a document may be longer than the 128 KiB of a field's default
    reader = csv.DictReader(io.StringIO(_decoded(path), newline=""), delimiter=delimiter, strict=True)
    try:
        for row in reader:
            yield row, f"{path}:{reader.line_num}"
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num}: no valid row ({error})") from error


def _parquet(path: Path, column: str) -> Rows:
    file, number = parquet.ParquetFile(path), 0
    wanted = [column] if column in file.schema_arrow.names else None  # other columns may be large
    for batch in file.iter_batches(columns=wanted):
        for row in batch.to_pylist():
            number += 1
            yield row, f"{path}, row {number}"


def _document(row: Any, column: str, where: str, fault: Fault, first: bool) -> Any:
    other = NotTextError if first else UserError  # a table about something else, or a broken one
    if not isinstance(row, dict):
        raise other(f"{where}: an object with a `{column}` is wanted, not {kind_of(row)}")
    if column not in row:
        held = ", ".join(map(str, list(row)[:8])) or "nothing"
        raise other(f"{where}: no `{column}`; it holds {held} (data.column says which is the text)")
    if wrong := fault(row[column]):
        raise UserError(f"{where}: `{column}` {wrong}")
    return row[column]


def kind_of(value: object) -> str:
    """In words."""
    return "null" if value is None else f"a {type(value).__name__}"
