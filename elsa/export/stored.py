"""A model's tensors in a folder, plain or in the sparse format, each held against what the folder says of it.

Only what is asked for is read.
"""

import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from elsa.errors import UserError
from elsa.export.layout import Packed, part_shapes
from elsa.files import read_json
from elsa.globs import expert_name, stored_name

METHOD = "elsa_sparse"
VERSION = 1
WEIGHTS, INDEX = "elsa.safetensors", "elsa.safetensors.index.json"  # no loader without this package looks for these
_LFS = b"version https://git-lfs"


def sparse_modules(quantization: Any) -> dict[str, Any] | None:
    """{module: entry} of a config's `quantization_config`, a dict or None; None if it is not of this format."""
    if not isinstance(quantization, dict) or quantization.get("quant_method") != METHOD:
        return None
    version, modules = quantization.get("version"), quantization.get("modules")
    if version != VERSION or not isinstance(modules, dict):
        raise UserError(f"quantization_config: version {version} of {METHOD}; this elsa reads {VERSION}, with modules")
    return modules


def weight_of(module: str) -> str:
    """The name of the weight of an entry of `modules`, which is a module, or a matrix of an expert."""
    return module if stored_name(module)[1] is not None else f"{module}.weight"


class Stored:
    """The tensors of a folder by their names in the model: a sparse matrix X is `X.weight`, as in any other folder.

    Args:
        folder: of a model, plain or in the sparse format.
    """

    def __init__(self, folder: Path):
        path = folder / "config.json"
        config = (read_json(path) or {}) if path.is_file() else {}
        found = sparse_modules(config.get("quantization_config"))
        self.folder, self.sparse, self.modules = folder, found is not None, found or {}
        self._open: dict[Path, Any] = {}
        self.dtype: str | None = config.get("dtype") if self.sparse else None  # of what is no int8

    @cached_property
    def files(self) -> list[Path]:
        """Those of weights. Raises `UserError` if there are none, or one of them is missing."""
        single, index = (WEIGHTS, INDEX) if self.sparse else (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
        return _files(self.folder, single, index)

    @cached_property
    def _places(self) -> dict[str, tuple[Path, list[int]]]:
        """{name in a file: the file, and the shape there}."""
        return {name: (path, shape) for path in self.files for name, shape in _headers(path).items()}

    @cached_property
    def shapes(self) -> dict[str, list[int]]:
        """Of every tensor of the model. Raises `UserError` if a part of a matrix is missing or of another shape."""
        shapes = {name: shape for name, (_, shape) in self._places.items()}
        for module, entry in self.modules.items():
            for part, wanted in part_shapes(entry).items():
                name = f"{weight_of(module)}_{part}"
                found = shapes.pop(name, None)
                if found is None:
                    raise UserError(f"path={self.folder}: {name} is not in its files")
                if found != list(wanted):
                    raise UserError(f"path={self.folder}: {name} has shape {found}, wanted {list(wanted)}")
            parameter, expert = stored_name(module)
            shape = entry["shape"][::-1] if entry.get("transposed") else list(entry["shape"])
            if expert is None:
                shapes[f"{module}.weight"] = shape
            else:
                shapes[parameter] = [self._experts(parameter), *shape]
        return shapes

    @cached_property
    def _numbers(self) -> dict[str, set[int]]:
        """Of the experts, by the name of the parameter that holds them in the model."""
        found: dict[str, set[int]] = {}
        for module in self.modules:
            parameter, expert = stored_name(module)
            if expert is not None:
                found.setdefault(parameter, set()).add(expert)
        return found

    def _experts(self, parameter: str) -> int:
        """How many matrices it holds. Raises `UserError` if one is missing, or of another shape."""
        numbers = self._numbers[parameter]
        if numbers != set(range(len(numbers))):
            raise UserError(f"path={self.folder}: {parameter} has experts {sorted(numbers)}, of which some are missing")
        kinds = {
            (*self.modules[name]["shape"], self.modules[name].get("transposed", False))
            for name in (expert_name(parameter, number) for number in numbers)
        }
        if len(kinds) != 1:
            raise UserError(f"path={self.folder}: the experts of {parameter} have different shapes")
        return len(numbers)

    def tensor(self, name: str) -> torch.Tensor:
        """One tensor by `name`; a sparse matrix with its zeros, in its values' dtype, or float32 for scaled int8.

        Raises `UserError` if it is not as it was written.
        """
        if name in self._numbers:
            return torch.stack([self._matrix(expert_name(name, each)) for each in range(self._experts(name))])
        module = name.removesuffix(".weight")
        return self._matrix(module) if module in self.modules else self._read(name)

    def _matrix(self, module: str) -> torch.Tensor:
        """A sparse matrix with its zeros, as its module has it."""
        transposed = self.modules[module].get("transposed", False)
        csr = self.packed(module).csr()
        weight_OI = csr.dense(csr.values.dtype, transposed)
        return weight_OI.t() if transposed else weight_OI

    def packed(self, module: str) -> Packed:
        """The sparse matrix of a `module` as it lies there. Raises `UserError` if it is not as it was written."""
        entry = self.modules[module]
        outputs, inputs = entry["shape"]
        parts = {part: self._read(f"{weight_of(module)}_{part}") for part in part_shapes(entry)}
        packed = Packed(entry["layout"], (outputs, inputs), parts)
        if packed.checksum != entry.get("crc32"):
            raise UserError(f"path={self.folder}: {weight_of(module)} is not as it was written: its checksum differs")
        return packed

    def tensors(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names and tensors of all, one at a time."""
        for name in self.shapes:
            yield name, self.tensor(name)

    def _read(self, name: str) -> torch.Tensor:
        path = self._places[name][0]
        if path not in self._open:  # parsing a header takes longer than reading a matrix
            self._open[path] = safe_open(path, "pt")
        tensor: torch.Tensor = self._open[path].get_tensor(name)
        return tensor


def _files(folder: Path, single: str, index_name: str) -> list[Path]:
    if (folder / single).is_file():
        return [folder / single]
    index = folder / index_name
    if not index.is_file():
        raise UserError(f"path={folder}: it holds no {single}, and no {index_name} of several")
    try:
        named = {folder / each for each in json.loads(index.read_text())["weight_map"].values()}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise UserError(f"path={index}: no index of safetensors files ({type(error).__name__})") from error
    missing = sorted(path.name for path in named if not path.is_file())
    if missing:
        shown = ", ".join(missing[:3]) + (", …" if len(missing) > 3 else "")
        raise UserError(f"path={folder}: {len(missing)} of its {len(named)} files of weights are missing ({shown})")
    return sorted(named)


def _headers(path: Path) -> dict[str, list[int]]:
    """{name: shape} of a file."""
    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118 (no dict)
    except (OSError, SafetensorError) as error:
        with path.open("rb") as file:
            pointer = file.read(len(_LFS)) == _LFS
        why = "a pointer of git-lfs, not the weights; run: git lfs pull" if pointer else f"broken or cut ({error})"
        raise UserError(f"path={path}: {why}") from error
