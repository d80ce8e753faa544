"""Any data set of the hub, read row by row from its first one on: only as many as a run takes are ever downloaded.

What was read is kept in files of 256 documents, in the mirror if there is one, so that the same run finds all of it
again without network. A file that is not full is the last of its split.
"""

import json
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from pathlib import Path
from typing import Any

import numpy as np
from huggingface_hub.errors import RepositoryNotFoundError

from elsa import hub
from elsa.data.packing import Document
from elsa.data.sources import TextSource, held_out_parts, place_of
from elsa.errors import UserError, did_you_mean, in_one_line, require
from elsa.files import content_hash, file_name, read_text, write_text

_A_FILE = 256  # documents
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class HubStream(TextSource):
    """Any text data set of the hub, read row by row: only as many as a run takes are ever downloaded.

    Training takes as many documents as its windows need, and the first `buffer_size` at least, of which the seed draws
    the order; a split that is scored is its first `documents_used` documents.

    Args:
        name: owner/set.
        subset: of the data set; null where it has none.
        revision: a commit; null or a branch for the commit that it meant when the data set was first read here.
        train: its name of the split.
        validation: the same; null holds back the share `held_out` of train, by a hash of the document.
        test: the same.
        column: of the text.
        held_out: see `validation`.
        buffer_size: documents that the seed shuffles.
        documents_used: of a split that is scored.
    """

    name: str
    subset: str | None = None
    revision: str | None = None
    train: str = "train"
    validation: str | None = None
    test: str | None = None
    column: str = "text"
    held_out: float = 0.1
    buffer_size: int = 4096
    documents_used: int = 512

    def __post_init__(self) -> None:
        super().__post_init__()
        named = re.fullmatch(r"[\w.-]+/[\w.-]+", self.name) is not None
        require(named, "name", self.name, "the hub's name of a data set is wanted: owner/set")
        require(0 <= self.held_out < 0.5, "held_out", self.held_out, "a share below 0.5, for example 0.1; 0 for none")
        require(self.buffer_size >= 1, "buffer_size", self.buffer_size, "at least 1")
        require(self.documents_used >= 1, "documents_used", self.documents_used, "at least 1")

    @property
    def streamed(self) -> bool:
        return True

    def check(self, split: str) -> None:
        there = getattr(self, split) is not None or self.held_out > 0
        require(there, split, "null", "this run needs the split; give the hub's name of it, or set data.held_out=0.1")
        found = next(self._rows(split), None) if split == "train" else self.documents(split)
        require(bool(found), split, getattr(self, split), f"{self.name} has no documents there")

    def documents(self, split: str) -> list[Document]:
        """Those that are scored."""
        return list(self.drawn(split, None))

    def drawn(self, split: str, random: np.random.Generator | None) -> Iterator[Document]:
        rows = self._rows(split)
        if random is None:
            yield from islice(rows, self.documents_used)
            return
        first = list(islice(rows, self.buffer_size))
        yield from (first[i] for i in random.permutation(len(first)))
        yield from rows

    def identity(self, split: str, cache: Path) -> dict[str, Any]:
        part = self._parts.get(split)
        taken = {"buffer_size": self.buffer_size, "documents_used": self.documents_used}
        return {"source": self.name, "revision": self._commit, "stream": self._stream(split), "part": part} | taken

    def facts(self) -> dict[str, Any]:
        return {"revision": self._commit}

    def _stream(self, split: str) -> list[str | None]:
        """What tells one of the set's streams from the others: subset, split, column."""
        return [self.subset, getattr(self, split) or self.train, self.column]

    @property
    def _parts(self) -> dict[str, tuple[float, float]]:
        return held_out_parts(self.held_out, [split for split in ("test", "validation") if not getattr(self, split)])

    @property
    def _folder(self) -> Path:
        return hub.streams() / self.name.replace("/", "--")

    @cached_property
    def _commit(self) -> str:
        """Asked once and kept: a branch may mean another one tomorrow."""
        if self.revision is not None and hub.is_commit(self.revision):
            return self.revision
        kept = self._folder / "refs" / file_name(self.revision or "main")
        if kept.is_file():
            return read_text(kept).strip()
        self._refuse_offline("its commit")
        with self._explained("its commit"):
            found = hub.commit(self.name, self.revision, "README.md", "dataset")
        write_text(kept, f"{found}\n")
        return str(found)

    def _rows(self, split: str) -> Iterator[Document]:
        """The documents of a split, without those that are held back."""
        low, high = self._parts.get(split, (0.0, 1.0))
        return (each for each in self._kept_rows(split) if low <= place_of(each) < high)

    def _kept_rows(self, split: str) -> Iterator[Document]:
        """All of a stream: from its files as far as there are any, then from the hub, which fills the next ones."""
        stream = self._stream(split)
        words = "-".join(each for each in stream if each)
        folder = self._folder / self._commit / f"{file_name(words)}-{content_hash(stream, 8)}"
        from_hub: Iterator[Document] | None = None
        for number in count():
            path = folder / f"{number:06}.jsonl"
            if from_hub is None and path.is_file():
                documents = _read(path)
            else:
                from_hub = from_hub or self._from_hub(split, number * _A_FILE)
                documents = list(islice(from_hub, _A_FILE))
                write_text(path, "".join(f"{json.dumps(each, default=str)}\n" for each in documents))
            yield from documents
            if len(documents) < _A_FILE:
                return

    def _from_hub(self, split: str, first: int) -> Iterator[Document]:
        """The documents of a stream from number `first` on. Raises `UserError` for what the hub or the rows lack."""
        subset, named, _ = self._stream(split)
        what = f"the split {named}" + (f" of {subset}" if subset else "") + f" from document {first:,} on"
        self._refuse_offline(what)
        import datasets

        _log.info("%s: streaming %s", self.name, what)
        with self._explained(what):
            rows = datasets.load_dataset(self.name, subset, split=named, revision=self._commit, streaming=True)
            for number, row in enumerate(rows.skip(first), first + 1):
                yield self._document(row, number)

    def _document(self, row: dict[str, Any], number: int) -> Document:
        column = self.column
        if column not in row:
            raise UserError(f"column={column}: {self.name} has no such column; {did_you_mean(column, row)}")
        wrong = self.fault(row[column])
        require(not wrong, "column", column, f"in row {number:,} of {self.name} it {wrong}")
        return row[column]

    def _refuse_offline(self, what: str) -> None:
        place = f"{what} is not in {hub.streams()}, and the hub cannot be reached"
        require(hub.reachable(), "name", self.name, f"{place}; run once with network, or elsa fetch")

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        try:
            yield
        except UserError:
            raise
        except RepositoryNotFoundError as error:
            wanted = "the hub has no such data set; if it is private or gated, log in with: hf auth login"
            raise UserError(f"name={self.name}: {wanted}") from error
        except Exception as error:  # the hub's libraries let through errors of many others
            said = in_one_line(error, 200)
            raise UserError(f"name={self.name}: {what} cannot be read from the hub: {said}") from error


def _read(path: Path) -> list[Document]:
    try:
        return [json.loads(line) for line in read_text(path).splitlines()]
    except ValueError as error:
        said = in_one_line(error, 100)
        raise UserError(f"{path}: broken ({said}); delete it to read it from the hub again") from error
