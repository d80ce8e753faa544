"""Write a model in few bytes, tensor by tensor: no more of it is in memory than one file holds.

    elsa.safetensors    `X.weight_bits`, `X.weight_values` … of every matrix X that is smaller so, and all other tensors
    config.json         the model's, with `quantization_config`: layout, shape and checksum of each such matrix
    export.json         bytes, zeros, ratios and hashes

Above 5 GB it is several files with an index. A dense export has the names that transformers itself writes.
"""

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

from elsa.errors import UserError, did_you_mean, require
from elsa.export.layout import Packed, entropy_bytes, entry_of, pack_matrix, quantized
from elsa.export.stored import INDEX, METHOD, VERSION, WEIGHTS, Stored
from elsa.files import file_hash, read_json, write_folder_atomically, write_json
from elsa.globs import expert_name
from elsa.track.progress import progress

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INT8 = "int8"
SHARD = 5 * 10**9  # bytes
_BESIDE_INT8 = "bfloat16"  # of what is no pruned matrix
_COPIED = ("*.json", "*.model", "*.txt", "*.jinja")  # tokenizer, chat template, generation config
# a name of weights in config.json would let transformers alone read them, and draw the rest at random
_NOT_OF_A_FILE = ("quantization_config", "torch_dtype", "transformers_weights")
_NOT_COPIED = ("config.json", "export.json", "record.json", SAFE_WEIGHTS_INDEX_NAME, INDEX)


@dataclass(frozen=True, kw_only=True)
class Format:
    """How a model is written.

    Args:
        dtype: of the values; int8 has a scale for each row, and bfloat16 for all that is no pruned matrix.
    """

    dtype: str = "bfloat16"

    sparse: ClassVar[bool] = False

    def __post_init__(self) -> None:
        known = [*DTYPES, INT8] if self.sparse else list(DTYPES)
        require(self.dtype in known, "dtype", self.dtype, did_you_mean(self.dtype, known))

    @property
    def name(self) -> str:
        """What the folder of the export is called: "sparse-bfloat16"."""
        return f"{type(self).__name__.lower()}-{self.dtype}"

    @property
    def model_dtype(self) -> str:
        """Of every tensor but int8 values."""
        return _BESIDE_INT8 if self.dtype == INT8 else self.dtype

    def cast(self, name: str, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` of the model by `name`, in `model_dtype`. Raises `UserError` if that leaves NaN or infinity."""
        cast = self.cast_unchecked(tensor)
        if tensor.is_floating_point() and not bool(cast.isfinite().all()):
            before = bool(tensor.isfinite().all())
            why = f"{self.model_dtype} cannot hold its largest values; try bfloat16" if before else "NaN or infinity"
            raise UserError(f"{name}: {why}")
        return cast

    def cast_unchecked(self, tensor: torch.Tensor) -> torch.Tensor:
        """The same of a `tensor` that was looked at before."""
        return tensor.to(DTYPES[self.model_dtype]) if tensor.is_floating_point() else tensor

    def packed(self, weight_OI: torch.Tensor) -> Packed:
        """A pruned matrix in its smallest layout. `weight_OI`: as the model that is exported has it."""
        if self.dtype == INT8:
            values_OI, scale_O = quantized(weight_OI)
            return pack_matrix(values_OI, scale_O=scale_O)
        return pack_matrix(weight_OI.to(DTYPES[self.dtype]))


@dataclass(frozen=True, kw_only=True)
class Sparse(Format):
    """Values other than zero and their places: smaller, and faster where `elsa bench` says so; read by this package."""

    sparse: ClassVar[bool] = True


@dataclass(frozen=True, kw_only=True)
class Dense(Format):
    """A plain folder of transformers, zeros and all: what llama.cpp, vLLM and OpenVINO read."""


def export(
    source: Stored, matrices: dict[str, bool], form: Format, to: Path, record: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write a model to a folder, which is whole or absent. What was written is read back and compared bit for bit.

    Args:
        source: the tensors of the model.
        matrices: names of the pruned ones, and whether they are stored as [I, O].
        form: `Sparse` or `Dense`.
        to: the folder.
        record: of the run, to go with it.

    Returns:
        What its export.json says: bytes by part, zeros, ratios and hashes.

    Raises:
        UserError: where nothing would be smaller, or a value cannot be held.
    """
    facts: dict[str, Any] = {}

    def write(folder: Path) -> None:
        for path in sorted(each for pattern in _COPIED for each in source.folder.glob(pattern)):
            if path.name not in _NOT_COPIED:
                shutil.copyfile(path, folder / path.name)
        counts: dict[str, dict[str, Any]] = {}
        entries = write_tensors(folder, _encoded(source, matrices, form, counts), sparse=form.sparse)
        config = read_json(source.folder / "config.json") or {}
        write_config(folder, config | {"dtype": form.model_dtype}, entries if form.sparse else None)
        _compare(Stored(folder), source, matrices, form)
        facts.update(_facts(Stored(folder), source, counts, form))
        if form.sparse and facts["bytes"]["total"] >= facts["bytes"]["dense"]:
            zeros = facts["zeros"]["before"] / facts["zeros"]["numel"]
            raise UserError(
                f"not smaller: {zeros:.1%} of the pruned weights are zero; export=dense is the format for it"
            )
        write_json(folder / "export.json", facts)
        if record is not None:
            write_json(folder / "record.json", record)

    write_folder_atomically(to, write)
    return facts


def write_tensors(
    folder: Path, tensors: Iterable[tuple[str, torch.Tensor | Packed, bool]], *, sparse: bool = True
) -> dict[str, Any]:
    """Write named tensors, and matrices in their layouts, to one file or several; {module: entry} of the latter.

    Each comes with whether its module stores it as [I, O].
    """
    entries: dict[str, Any] = {}
    held: dict[str, torch.Tensor] = {}
    files: list[list[str]] = []
    total = 0

    def flush() -> None:
        files.append(list(held))
        save_file(held, folder / f"shard-{len(files)}.safetensors", metadata={"format": "pt"})
        held.clear()

    for name, tensor, transposed in tensors:
        if isinstance(tensor, Packed):
            entries[name.removesuffix(".weight")] = entry_of(tensor, transposed)
            parts = {f"{name}_{part}": value.contiguous() for part, value in tensor.parts.items()}
        else:
            parts = {name: tensor.contiguous()}
        size = sum(part.nbytes for part in parts.values())
        if held and size + sum(each.nbytes for each in held.values()) > SHARD:
            flush()
        held |= parts
        total += size
    flush()
    single, index = (WEIGHTS, INDEX) if sparse else (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    if len(files) == 1:
        (folder / "shard-1.safetensors").rename(folder / single)
        return entries
    places: dict[str, str] = {}
    for number, names in enumerate(files, 1):
        name = f"{single.removesuffix('.safetensors')}-{number:05}-of-{len(files):05}.safetensors"
        (folder / f"shard-{number}.safetensors").rename(folder / name)
        places |= dict.fromkeys(names, name)
    write_json(folder / index, {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))})
    return entries


def write_config(folder: Path, config: dict[str, Any], entries: dict[str, Any] | None) -> None:
    """Write config.json. `entries`: of the matrices; None for a model that any loader reads."""
    plain = {key: value for key, value in config.items() if key not in _NOT_OF_A_FILE}
    if entries is not None:
        weights = WEIGHTS if (folder / WEIGHTS).is_file() else INDEX
        plain["quantization_config"] = {
            "quant_method": METHOD, "version": VERSION, "weights": weights, "modules": entries,
        }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")


def _encoded(
    source: Stored, matrices: dict[str, bool], form: Format, counts: dict[str, dict[str, Any]]
) -> Iterator[tuple[str, torch.Tensor | Packed, bool]]:
    """The tensors as they are written; `counts` gets what is known of each."""
    for name, tensor in progress(source.tensors(), "export", total=len(source.shapes), unit="tensor"):
        cast = form.cast(name, tensor)
        if (experts := _experts_of(name, tensor, matrices)) is not None:
            yield from _encoded_experts(name, tensor, cast, experts, form, counts)
            continue
        if name not in matrices:
            counts[name] = {"bytes": cast.nbytes, "dense": cast.nbytes}
            yield name, cast, False
            continue
        exact = tensor if form.dtype == INT8 else cast
        packed = form.packed(exact.t() if matrices[name] else exact)
        its_count = _count(tensor, packed)
        if form.sparse and (packed.layout != "dense" or form.dtype == INT8):
            counts[name] = its_count
            yield name, packed, matrices[name]
        else:
            counts[name] = its_count | {"layout": "dense", "bytes": cast.nbytes, "parts": {"dense": cast.nbytes}}
            yield name, cast, False


def _experts_of(name: str, tensor: torch.Tensor, matrices: dict[str, bool]) -> bool | None:
    """Whether the experts' matrices in a tensor [E, ...] are stored as [I, O]; None of any other tensor."""
    named = (expert_name(name, number) for number in range(len(tensor))) if tensor.dim() == 3 else ()
    return next((matrices[each] for each in named if each in matrices), None)


def _encoded_experts(
    name: str,
    tensor: torch.Tensor,
    cast: torch.Tensor,
    transposed: bool,
    form: Format,
    counts: dict[str, dict[str, Any]],
) -> Iterator[tuple[str, torch.Tensor | Packed, bool]]:
    """The experts' matrices one by one in their layouts, or the whole tensor for a format that is not sparse."""
    for number, (its, its_cast) in enumerate(zip(tensor, cast, strict=True)):
        exact = its if form.dtype == INT8 else its_cast
        packed, expert = form.packed(exact.t() if transposed else exact), expert_name(name, number)
        counts[expert] = _count(its, packed)
        if form.sparse:
            yield expert, packed, transposed
        else:
            counts[expert] |= {"layout": "dense", "bytes": its_cast.nbytes, "parts": {"dense": its_cast.nbytes}}
    if not form.sparse:
        yield name, cast, False


def _count(tensor: torch.Tensor, packed: Packed) -> dict[str, Any]:
    """Of a pruned matrix: entries, zeros before and after the cast, bytes of its parts and of a dense one, and how many
    times the bytes are those of the entropy bound.
    """
    values, scale = packed.parts["values"], packed.parts.get("scale")
    scale_bytes = 0 if scale is None else scale.nbytes
    nonzeros = int((values != 0).sum())
    bound = entropy_bytes(nonzeros, tensor.numel(), values.element_size()) + scale_bytes
    return {
        "numel": tensor.numel(), "before": int((tensor == 0).sum()), "after": tensor.numel() - nonzeros,
        "layout": packed.layout, "bytes": packed.nbytes, "dense": tensor.numel() * values.element_size() + scale_bytes,
        "parts": {part: value.nbytes for part, value in packed.parts.items()},
    } | ({"over_entropy": packed.nbytes / bound} if bound else {})  # fmt: skip


def _compare(written: Stored, source: Stored, matrices: dict[str, bool], form: Format) -> None:
    """Raise `UserError` unless every tensor, read back, is the one that was to be written."""
    names = set(written.shapes)
    for name, tensor in progress(source.tensors(), "read back", total=len(source.shapes), unit="tensor"):
        wanted, experts = form.cast_unchecked(tensor), _experts_of(name, tensor, matrices)
        if form.dtype == INT8 and experts is not None:
            wanted = torch.stack([_rounded(each, experts) for each in tensor])
        elif form.dtype == INT8 and name in matrices:
            wanted = _rounded(tensor, matrices[name])
        if name not in names or not torch.equal(written.tensor(name), wanted):
            raise UserError(f"{written.folder}: {name} is not on disk as it was in memory")
        names.remove(name)
    assert not names, f"written beside the model: {sorted(names)}"


def _rounded(matrix: torch.Tensor, transposed: bool) -> torch.Tensor:
    """What a matrix is as int8 with a scale a row, in float32."""
    values_OI, scale_O = quantized(matrix.t() if transposed else matrix)
    wanted_OI = values_OI.float() * scale_O[:, None]
    return wanted_OI.t() if transposed else wanted_OI


def _facts(written: Stored, source: Stored, counts: dict[str, dict[str, Any]], form: Format) -> dict[str, Any]:
    matrices = {name: count for name, count in counts.items() if "numel" in count}
    parts: Counter[str] = Counter()
    for count in matrices.values():
        parts.update(count["parts"])
    total, dense = (sum(count[key] for count in counts.values()) for key in ("bytes", "dense"))
    stored = sum(path.stat().st_size for path in source.files)
    pruned, pruned_dense = (sum(count[key] for count in matrices.values()) for key in ("bytes", "dense"))
    return {
        "format": VERSION, "name": form.name, "dtype": form.dtype,
        "bytes": {
            "total": total, "dense": dense, "source": stored, "matrices": pruned, "matrices_dense": pruned_dense,
            "rest": total - pruned, "parts": dict(sorted(parts.items())),
        },
        "ratio": {
            "of_dense": total / dense, "of_source": total / stored,
            "matrices_of_dense": pruned / pruned_dense if pruned_dense else 1.0,
        },
        "zeros": {key: sum(count[key] for count in matrices.values()) for key in ("numel", "before", "after")},
        "matrices": matrices,
        "files": {path.name: file_hash(path) for path in progress(written.files, "hash", unit="file")},
    }  # fmt: skip
