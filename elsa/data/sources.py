"""Text sources: one dataclass each, the same three splits, an identity that changes when the text does.

`documents(split)` gives those of "train", "validation" or "test"; a source without a split says so. `identity`
enters cache keys and records, so it holds whatever decides the text: a content hash, or a pinned revision.
"""

import hashlib
import json
import logging
import sysconfig
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerFast

from elsa import hub
from elsa.data.formats import fault_of_text, files_of, format_of, read_documents
from elsa.data.packing import Document, Packer, TextPacker
from elsa.errors import UserError, require, under
from elsa.files import known_hash

SPLITS = ("train", "validation", "test")
_MANY = 100  # documents that can be dealt out whole
_NOT_LIBRARY = {"site-packages", "dist-packages", "test", "tests", "idle_test", "encodings", "pydoc_data"}


class Source(ABC):
    """Where token windows come from."""

    @property
    @abstractmethod
    def length(self) -> int | None:
        """Tokens of a window; None if only its file knows, and that is not there."""

    @abstractmethod
    def check(self, split: str) -> None:
        """Raise `UserError` if a `split` is missing, before any work is done for it."""

    @abstractmethod
    def identity(self, split: str, cache: Path) -> dict[str, Any]:
        """What decides the content of the `split`, as JSON. `cache`: where hashes of large files are remembered."""

    @abstractmethod
    def windows(self, cut: "Cut", split: str, count: int | None, seed: int | None) -> torch.Tensor:
        """Token windows of one split.

        Args:
            cut: makes windows of a text source.
            split: train, validation or test.
            count: how many; None for all, where there is no seed.
            seed: for windows to train on, exactly `count` in the order that it draws; None for the first ones.

        Returns:
            `windows_NL`, int32.
        """

    @property
    def streamed(self) -> bool:
        """Whether documents come from the hub one by one, as many as windows take."""
        return False

    def facts(self) -> dict[str, Any]:
        """What decides the content and is not in the config, for the record."""
        return {}


Cut = Callable[["TextSource", str, int | None, int | None], torch.Tensor]


@dataclass(frozen=True, kw_only=True)
class TextSource(Source):
    """A corpus, and the windows that its documents are packed into.

    Args:
        sequence_length: tokens of a window.
    """

    sequence_length: int = 512

    def __post_init__(self) -> None:
        require(self.sequence_length >= 2, "sequence_length", self.sequence_length, "a window has at least 2 tokens")

    @property
    def length(self) -> int:
        return self.sequence_length

    @abstractmethod
    def documents(self, split: str) -> list[Document]:
        """The documents of one `split`, in their fixed order."""

    def drawn(self, split: str, random: np.random.Generator | None) -> Iterator[Document]:
        """One epoch of documents of a `split`: in an order that `random` draws, or in their own."""
        documents = self.documents(split)
        yield from documents if random is None else (documents[i] for i in random.permutation(len(documents)))

    def fault(self, value: object) -> str:
        """What is wrong with the document `value`, "" for nothing."""
        return fault_of_text(value)

    def packer(self, tokenizer: PreTrainedTokenizerFast, bos: int | None) -> Packer:
        """What makes windows of the documents (`Packer`). `bos`: the token that each begins with, if any."""
        return TextPacker(tokenizer=tokenizer, length=self.sequence_length, bos=bos)

    def said(self, split: str, counts: dict[str, int]) -> tuple[int, str]:
        """Level and line of the log for what the packer of a `split` has counted in `counts`."""
        return logging.INFO, f"the {split} split: {counts}"

    def windows(self, cut: Cut, split: str, count: int | None, seed: int | None) -> torch.Tensor:
        return cut(self, split, count, seed)


@dataclass(frozen=True, kw_only=True)
class Stdlib(TextSource):
    """The Python standard library's own sources: real text that is on every machine.

    The split follows a hash of the module's path: a tenth each for validation and test, the rest to train on. Test
    suites and the generated tables of `encodings` and `pydoc_data` are left out.
    """

    def check(self, split: str) -> None:
        require(bool(self.documents(split)), "source", "stdlib", "this Python has no sources of its standard library")

    def documents(self, split: str) -> list[str]:
        return _stdlib(Path(sysconfig.get_paths()["stdlib"]))[split]

    def identity(self, split: str, cache: Path) -> dict[str, Any]:
        return {"source": "stdlib", "split": split, "sha256": text_hash(self.documents(split))}


@dataclass(frozen=True, kw_only=True)
class Files(TextSource):
    """Local files: plain text (a file is a document), or JSON lines, JSON, CSV, Parquet (a row is one).

    All but Parquet may be compressed (.gz, .bz2, .zst, .lz4). Of a folder, what is hidden or no text is left aside.

    Args:
        train: files and folders to train on.
        validation: the same to choose settings by.
        test: the same to score.
        held_out: the share of train that is kept back for each of validation and test, as far as these are not named:
            of the documents where there are a hundred, else of each text at its end.
        column: of the text in a row.
    """

    train: list[str] = field(default_factory=list)
    validation: list[str] = field(default_factory=list)
    test: list[str] = field(default_factory=list)
    held_out: float = 0.0
    column: str = "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.held_out < 0.5, "held_out", self.held_out, "a share below 0.5, for example 0.1; 0 for none")

    def check(self, split: str) -> None:
        names = getattr(self, split) or (self.train if self.held_out else [])
        require(bool(names), split, "[]", "this run needs the split; name its files, or set data.held_out=0.1")
        for name in names:
            require(Path(name).exists(), split, name, "no such file or folder")

    def documents(self, split: str) -> list[Document]:
        found = [each for name in self._names(split) for each in read_documents(name, self.column, self.fault)]
        return self._part(found, split) if split in self._parts else found

    def identity(self, split: str, cache: Path) -> dict[str, Any]:
        paths = [path for name in self._names(split) for path in files_of(name)]
        content = [["".join(format_of(path)), known_hash(path, cache)] for path in paths]
        part = [self.held_out, list(self._parts)] if split in self._parts else []
        column = {} if self.column == "text" else {"column": self.column}
        return {"source": "text", "split": split, "files": content, "part": part} | column

    def _names(self, split: str) -> list[str]:
        return getattr(self, split) or self.train

    @property
    def _parts(self) -> dict[str, tuple[float, float]]:
        """{split: from where to where it takes train}, for the splits that are cut out of it, and what that leaves."""
        return held_out_parts(self.held_out, [split for split in ("test", "validation") if not getattr(self, split)])

    def _part(self, found: list[Document], split: str) -> list[Document]:
        low, high = self._parts[split]
        if len(found) >= _MANY or not isinstance(found[0], str):
            return [each for each in found if low <= place_of(each) < high]
        return [text[round((1 - high) * len(text)) : round((1 - low) * len(text))] for text in found]


@dataclass(frozen=True, kw_only=True)
class Text(Files):
    """Texts in local files.

    Args:
        join: glues the texts of a split into one with this separator ("\\n\\n" is the usual way with WikiText); null
            keeps them apart.
    """

    join: str | None = None

    def documents(self, split: str) -> list[str]:
        return _joined(super().documents(split), self.join)

    def identity(self, split: str, cache: Path) -> dict[str, Any]:
        return super().identity(split, cache) | {"join": self.join}


@dataclass(frozen=True, kw_only=True)
class HubText(TextSource):
    """Named files of a hub data set at a pinned revision; offline once they are cached.

    Args:
        repository: of the data set, owner/set.
        revision: its commit.
        train: the file of the split in the repository.
        validation: the same of validation.
        test: the same of test.
        join_train: glues the documents of train into one with this separator; null keeps them apart.
        join: the same of validation and of test.
        documents_used: of validation and of test only so many, the first ones; null for all.
    """

    repository: str
    revision: str
    train: str
    validation: str
    test: str
    join_train: str | None = None
    join: str | None = None
    documents_used: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        some = self.documents_used is None or self.documents_used >= 1
        require(some, "documents_used", self.documents_used, "at least 1, or null for all")

    def check(self, split: str) -> None:
        self._local_file(split)

    def documents(self, split: str) -> list[str]:
        import datasets

        path = self._local_file(split)
        kind = "parquet" if path.endswith(".parquet") else "json"
        texts = list(datasets.load_dataset(kind, data_files={split: path}, split=split)["text"])
        if split == "train":
            return _joined(texts, self.join_train)
        return _joined(texts[: self.documents_used], self.join)

    def _local_file(self, split: str) -> str:
        """The file in the hub's cache, downloaded if need be."""
        name = getattr(self, split)
        where = {"repo_id": self.repository, "filename": name, "repo_type": "dataset", "revision": self.revision}
        try:
            path: str = hf_hub_download(**where, **hub.place())
        except (OSError, HfHubHTTPError) as error:
            raise UserError(
                f"{split}={name}: not in the cache, and the hub cannot give it ({type(error).__name__}); run once with "
                f"network, or get that file of the data set {self.repository} and use data=text data.{split}=[<file>]"
            ) from error
        return path

    def identity(self, split: str, cache: Path) -> dict[str, Any]:
        name = getattr(self, split)
        revision = hub.commit(self.repository, self.revision, name, "dataset")
        return {
            "source": self.repository, "revision": revision, "file": name, "split": split,
            "documents_used": self.documents_used, "join": [self.join_train, self.join],
        }  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Tokens(Source):
    """Windows that someone else tokenised: a safetensors file with one integer tensor [windows, length] per split.

    With it two programs are compared on exactly the same token ids. Windows are taken in their stored order.

    Args:
        path: of the file.
        train: name of the tensor of the split.
        validation: the same of validation.
        test: the same of test.
    """

    path: str
    train: str = "train"
    validation: str = "validation"
    test: str = "test"

    @property
    def length(self) -> int | None:
        if not Path(self.path).is_file():
            return None
        shapes = self._shapes().values()
        return min((shape[-1] for shape in shapes if shape), default=None)

    def check(self, split: str) -> None:
        require(Path(self.path).is_file(), "path", self.path, "no such file; a safetensors file of token ids is wanted")
        shapes, key = self._shapes(), getattr(self, split)
        require(key in shapes, split, key, f"{self.path} holds {', '.join(sorted(shapes)) or 'nothing'}")
        shape = shapes[key]
        fits = len(shape) == 2 and shape[0] >= 1 and shape[1] >= 2
        require(fits, split, key, f"its shape is {shape}; [windows, length] with a length of 2 or more is wanted")

    def _shapes(self) -> dict[str, list[int]]:
        """Of every tensor in the file."""
        try:
            with safe_open(self.path, "pt") as file:
                return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 (no dict)
        except (OSError, SafetensorError) as error:
            raise UserError(f"path={self.path}: no whole safetensors file ({error})") from error

    def identity(self, split: str, cache: Path) -> dict[str, Any]:
        content = known_hash(Path(self.path), cache)
        return {"source": "tokens", "split": split, "key": getattr(self, split), "sha256": content}

    def windows(self, cut: Cut, split: str, count: int | None, seed: int | None) -> torch.Tensor:
        with under("data"):
            self.check(split)
        key = getattr(self, split)
        with safe_open(self.path, "pt") as file:
            stored: torch.Tensor = file.get_tensor(key)
        whole = not stored.is_floating_point() and not stored.is_complex() and stored.dtype != torch.bool
        require(whole, f"data.{split}", key, f"it is {stored.dtype}; integer token ids are wanted")
        require(int(stored.min()) >= 0 and int(stored.max()) < 2**31, f"data.{split}", key, "token ids are from 0 up")
        if seed is not None and count is not None and count > len(stored):
            raise UserError(f"data.path={self.path}: {key} holds {len(stored)} windows, this run needs {count}")
        return stored[:count].int()


@cache
def _stdlib(root: Path) -> dict[str, list[str]]:
    """The modules of a Python by split: they stay what they are while it runs."""
    texts: dict[str, list[str]] = {split: [] for split in SPLITS}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        if not _NOT_LIBRARY.intersection(relative.parts):
            bucket = int(hashlib.sha256(relative.as_posix().encode()).hexdigest(), 16) % 10
            split = {0: "test", 1: "validation"}.get(bucket, "train")
            texts[split].append(path.read_text(encoding="utf-8", errors="replace"))
    return texts


def held_out_parts(share: float, absent: list[str]) -> dict[str, tuple[float, float]]:
    """{split: from where to where it takes train}, for the splits that are cut out of it, and what that leaves."""
    if not share or not absent:
        return {}
    bounds = {split: (i * share, (i + 1) * share) for i, split in enumerate(absent)}
    return bounds | {"train": (len(absent) * share, 1.0)}


def place_of(document: Document) -> float:
    """Where in [0, 1) a document lies, by its hash: equal documents go to the same split."""
    text = document if isinstance(document, str) else json.dumps(document, sort_keys=True)
    return int(text_hash([text])[:8], 16) / 2**32


def text_hash(texts: list[str]) -> str:
    """SHA-256 of a list of texts that tells their boundaries apart."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode(errors="replace")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def _joined(texts: list[str], separator: str | None) -> list[str]:
    return texts if separator is None else [separator.join(texts)]
