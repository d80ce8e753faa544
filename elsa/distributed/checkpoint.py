"""A run's state of which every rank holds parts, as a folder: written by all together, read by any number of ranks.

What is spread goes through torch.distributed.checkpoint, each rank's rows into a file of its own; the rest of the state
into `rest.pt`. `checksums.json`, written last, names every file.
"""

import io
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard
from torch.distributed.tensor import empty as empty_spread

from elsa.distributed.ranks import Ranks
from elsa.errors import UserError, in_one_line
from elsa.files import file_hash, read_json, write_atomically, write_json
from elsa.tree import replaced

_MARK = "spread tensor"
_DAMAGED = (CheckpointException, OSError, RuntimeError, ValueError, LookupError, EOFError, pickle.UnpicklingError)


def write(folder: Path, state: dict[str, Any], ranks: Ranks) -> None:
    """Write a tree of dicts and lists with tensors, spread or not, into `folder`, which is there and empty.

    Raises `UserError` on all ranks if one of them cannot write.
    """
    spread: dict[str, DTensor] = {}
    rest = replaced(state, _into(spread))
    try:
        dcp.save(dict(spread), storage_writer=dcp.FileSystemWriter(folder))
    except CheckpointException as error:
        raise UserError(in_one_line(next(iter(error.failures.values()))[0])) from error
    mine = {f"__{ranks.rank}_0.distcp"}

    def finish() -> dict[str, str]:
        if ranks.first:
            mine.update((".metadata", "rest.pt"))
            write_atomically(folder / "rest.pt", lambda temporary: torch.save(rest, temporary))
        return {name: file_hash(folder / name) for name in mine if (folder / name).exists()}

    sums = ranks.gather(ranks.all_or_none(lambda: _explained(finish)))

    of_all = {name: each for one in sums for name, each in one.items()}
    ranks.once(lambda: _explained(lambda: write_json(folder / "checksums.json", of_all)))


def read(folder: Path, ranks: Ranks, device: str) -> dict[str, Any]:
    """What `write` wrote, spread over these ranks, on `device`, as it was over those.

    Raises `UserError` on all ranks if something of it is missing or damaged.
    """
    ranks.all_or_none(lambda: _explained(lambda: _verify(folder, ranks)))
    rest = ranks.all_or_none(
        lambda: _explained(lambda: torch.load(folder / "rest.pt", map_location="cpu", weights_only=True))
    )
    mesh = init_device_mesh(device, (ranks.size,)) if ranks.size > 1 else None
    tensors: dict[str, torch.Tensor] = {}

    def allocate(mark: dict[str, Any]) -> torch.Tensor:
        shape, dtype = torch.Size(mark["shape"]), getattr(torch, mark["dtype"])
        spread = [Shard(mark["dim"])]
        tensors[mark[_MARK]] = (
            torch.empty(shape, dtype=dtype)
            if mesh is None
            else empty_spread(shape, dtype=dtype, device_mesh=mesh, placements=spread)
        )
        return tensors[mark[_MARK]]

    state: dict[str, Any] = replaced(rest, lambda key, value: allocate(value) if _is_mark(value) else None)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "torch.distributed is disabled")  # one process reads all: as it is meant
            dcp.load(dict(tensors), storage_reader=_Reader(folder), no_dist=ranks.size == 1)
    except _DAMAGED as error:
        raise UserError(in_one_line(error, 200)) from error
    return state


class _Reader(dcp.FileSystemReader):
    """torch's own, which would execute whatever its pickled list of contents names."""

    def read_metadata(self, *_: Any, **__: Any) -> dcp.metadata.Metadata:
        metadata: dcp.metadata.Metadata = _OnlyMetadata(io.BytesIO((Path(self.path) / ".metadata").read_bytes())).load()
        metadata.storage_meta = dcp.metadata.StorageMeta(load_id=self.load_id)
        return metadata


class _OnlyMetadata(pickle.Unpickler):
    """Knows the classes that a list of contents is made of, and no other."""

    def find_class(self, module: str, name: str) -> Any:
        known = (
            module in ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
            or (module, name) in (("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath"))
            or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype))
        )
        if not known:
            raise pickle.UnpicklingError(f"{module}.{name} has no place in it")
        return super().find_class(module, name)


def _into(spread: dict[str, DTensor]) -> Callable[[str, Any], Any]:
    """Takes spread tensors out of a tree and leaves marks."""

    def mark(key: str, value: Any) -> dict[str, Any] | None:
        if not isinstance(value, DTensor):
            return None
        spread[key] = value
        (placement,) = value.placements
        assert isinstance(placement, Shard), f"{key} is spread by rows or columns"
        dtype = str(value.dtype).removeprefix("torch.")
        return {_MARK: key, "shape": list(value.shape), "dtype": dtype, "dim": placement.dim}

    return mark


def _is_mark(value: Any) -> bool:
    return isinstance(value, dict) and _MARK in value


def _verify(folder: Path, ranks: Ranks) -> None:
    """Hold this rank's share of the files against their checksums."""
    sums = read_json(folder / "checksums.json") or {}
    names = sorted(sums)
    if {"checksums.json", *names} != {path.name for path in folder.iterdir()}:
        raise UserError("its files are not those that were written")
    for number in ranks.share_of(len(names)):
        if file_hash(folder / names[number]) != sums[names[number]]:
            raise UserError(f"{names[number]} in it is damaged")


def _explained(do: Callable[[], Any]) -> Any:
    """`do()`; what the disk or a damaged file refuses is a `UserError`."""
    try:
        return do()
    except UserError:
        raise
    except _DAMAGED as error:
        raise UserError(in_one_line(error, 200) or type(error).__name__) from error
