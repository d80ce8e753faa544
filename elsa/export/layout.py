"""A pruned matrix in few bytes: its values other than zero in row order, and where they stand.

    bits    a bit an entry: bit j of byte k of a row is column 8k + j
    gaps    a byte a value: the zeros before it in its row; 255 is 255 zeros and no value
    dense   every entry

Shapes: O rows of I entries, N values, B = ceil(I / 8) bytes of bits a row, G gaps (N, and one for every 255 zeros).
"""

import zlib
from dataclasses import dataclass
from math import ceil, log2
from typing import Any, NamedTuple

import torch

from elsa.errors import UserError
from elsa.sparsity.bits import pack, unpack

LAYOUTS = ("bits", "gaps", "dense")
_ESCAPE = 255
_NARROW = 1 << 15  # columns, below which 16 bits count a row's values


class Csr(NamedTuple):
    """Compressed sparse rows of I = `inputs` entries.

    `rows`: where each row's values begin, and where the last one ends, int32 [O + 1]. `columns`: int32 [N].
    """

    rows: torch.Tensor
    columns: torch.Tensor
    values: torch.Tensor
    inputs: int

    @classmethod
    def of(cls, weight_OI: torch.Tensor) -> "Csr":
        """What a matrix holds beside zeros."""
        rows, columns = weight_OI.nonzero().unbind(1)
        counts = torch.bincount(rows, minlength=len(weight_OI))
        return cls(_starts(counts).int(), columns.int(), weight_OI[rows, columns], weight_OI.shape[1])

    def of_each(self, row_O: torch.Tensor) -> torch.Tensor:
        """[N]: what belongs to each value of what belongs to each row."""
        return row_O.repeat_interleave(self.rows.diff())

    def dense(self, dtype: torch.dtype, transposed: bool = False) -> torch.Tensor:
        """[O, I], in memory as [I, O] if `transposed`."""
        shape = (self.inputs, len(self.rows) - 1) if transposed else (len(self.rows) - 1, self.inputs)
        weight = torch.zeros(shape, dtype=dtype, device=self.values.device)
        weight_OI = weight.t() if transposed else weight
        rows = self.of_each(torch.arange(len(weight_OI), device=self.rows.device))
        weight_OI[rows, self.columns.long()] = self.values.to(dtype)
        return weight_OI


@dataclass(frozen=True)
class Packed:
    """A matrix as it lies on disk.

    `parts`: tensors by name, uint8 `bits` [O, B]; or uint8 `gaps` [G] with `counts` [O] of values, int16 or, for wide
    rows, int32; and `values` [N]; with int8 values a float32 `scale` [O].
    """

    layout: str
    shape: tuple[int, int]
    parts: dict[str, torch.Tensor]

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts.values())

    @property
    def checksum(self) -> int:
        """CRC-32 of all parts."""
        found = 0
        for name in sorted(self.parts):
            found = zlib.crc32(self.parts[name].contiguous().view(-1).view(torch.uint8).numpy().data, found)
        return found

    def csr(self) -> Csr:
        """Its values by rows; int8 is multiplied by its scale, to float32. Raises `UserError` if the parts disagree."""
        csr, scale_O = self._stored(), self.parts.get("scale")
        return csr if scale_O is None else csr._replace(values=csr.values.float() * csr.of_each(scale_O))

    def _stored(self) -> Csr:
        inputs, values = self.shape[1], self.parts["values"]
        if self.layout == "dense":
            return Csr.of(values.view(self.shape))
        if self.layout == "bits":
            mask_OI = unpack(self.parts["bits"], inputs)
            counts, columns = mask_OI.sum(1), mask_OI.nonzero()[:, 1]
            if inputs % 8 and bool((self.parts["bits"][:, -1] >> (inputs % 8)).any()):
                raise UserError("its bits mark columns that it has not")
        else:
            counts, columns = self._from_gaps()
        if len(columns) != len(values):
            raise UserError(f"it has places for {len(columns):,} values, and {len(values):,} values")
        return Csr(_starts(counts).int(), columns.int(), values, inputs)

    def _from_gaps(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Counts [O] and columns [N], int64."""
        gaps, counts = self.parts["gaps"], self.parts["counts"].long()
        is_value = gaps != _ESCAPE
        passed = (gaps.long() + is_value).cumsum(0)[is_value]  # entries up to and with each value, all rows in one
        total = int(counts.sum())
        if bool((counts < 0).any()) or total != len(passed) or (len(gaps) and not bool(is_value[-1])):
            raise UserError(f"it has {len(passed):,} gaps before values, and rows of {total:,} values")
        ends = torch.cat([passed.new_zeros(1), passed])[_starts(counts)]  # passed before each row, and by all
        columns = passed - 1 - ends[:-1].repeat_interleave(counts)
        if len(columns) and int(columns.max()) >= self.shape[1]:
            raise UserError(f"its gaps lead to column {int(columns.max()):,} of {self.shape[1]:,}")
        return counts, columns


def pack_matrix(weight_OI: torch.Tensor, layout: str | None = None, scale_O: torch.Tensor | None = None) -> Packed:
    """`weight_OI` in `layout`, or in that of the fewest bytes. `scale_O`: of int8 entries."""
    shape = (weight_OI.shape[0], weight_OI.shape[1])
    scale = {} if scale_O is None else {"scale": scale_O}
    if layout == "dense":
        return Packed(layout, shape, {"values": weight_OI.reshape(-1)} | scale)
    mask_OI = weight_OI != 0
    rows, columns = mask_OI.nonzero().unbind(1)
    values = {"values": weight_OI[mask_OI]} | scale
    packed = []
    if layout in (None, "bits"):
        packed.append(Packed("bits", shape, {"bits": pack(mask_OI)} | values))
    if layout in (None, "gaps"):
        counts = mask_OI.sum(1).to(part_dtypes(shape)["counts"])
        packed.append(Packed("gaps", shape, {"gaps": _gaps(rows, columns), "counts": counts} | values))
    if layout is None:
        packed.append(pack_matrix(weight_OI, "dense", scale_O))
    return min(packed, key=lambda each: each.nbytes)


def quantized(weight_OI: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """int8 [O, I] and float32 scale [O] whose product is nearest to the matrix, the largest of a row at 127.

    A zero stays a zero; what is below half a step becomes one.
    """
    largest_O = weight_OI.float().abs().amax(1)
    scale_O = torch.where(largest_O > 0, largest_O / 127, torch.ones_like(largest_O))
    return (weight_OI.float() / scale_O[:, None]).round().clamp(-127, 127).to(torch.int8), scale_O


def entropy_bytes(nonzeros: int, numel: int, value_bytes: int) -> float:
    """The fewest bytes for values that stand anywhere: numel · H(nonzeros / numel) bits for the places (Shannon)."""
    share = nonzeros / numel
    bits = 0.0 if share in (0.0, 1.0) else -share * log2(share) - (1 - share) * log2(1 - share)
    return numel * bits / 8 + nonzeros * value_bytes


def part_shapes(entry: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    """The shapes of the parts of a matrix by its entry in config.json. Raises `UserError` if that is no entry."""
    try:
        layout, (outputs, inputs), values = entry["layout"], entry["shape"], int(entry["values"])
        sizes: dict[str, tuple[int, ...]] = {"values": (values,)}
        if layout == "bits":
            sizes["bits"] = (outputs, ceil(inputs / 8))
        elif layout == "gaps":
            sizes |= {"gaps": (int(entry["gaps"]),), "counts": (outputs,)}
        elif layout != "dense":
            raise UserError(f"layout={layout}: known: {', '.join(LAYOUTS)}")
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"an entry of modules lacks what its layout needs ({type(error).__name__}: {error})") from error
    return sizes | ({"scale": (outputs,)} if entry.get("scaled") else {})


def part_dtypes(shape: tuple[int, int]) -> dict[str, torch.dtype]:
    """Of all parts but the values."""
    counts = torch.int16 if shape[1] < _NARROW else torch.int32
    return {"bits": torch.uint8, "gaps": torch.uint8, "counts": counts, "scale": torch.float32}


def entry_of(packed: Packed, transposed: bool) -> dict[str, Any]:
    """What config.json says of a matrix. `transposed`: its module keeps it as [I, O]."""
    entry = {"layout": packed.layout, "shape": list(packed.shape), "values": len(packed.parts["values"])}
    entry |= {"gaps": len(packed.parts["gaps"])} if packed.layout == "gaps" else {}
    entry |= {"scaled": True} if "scale" in packed.parts else {}
    entry |= {"transposed": True} if transposed else {}
    return entry | {"crc32": packed.checksum}


def _gaps(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """uint8 [G] of the places [N] of values."""
    before = torch.cat([columns.new_full((1,), -1), columns[:-1]])[: len(columns)]
    first = torch.ones_like(rows, dtype=torch.bool)
    first[1:] = rows[1:] != rows[:-1]
    zeros = columns - torch.where(first, -1, before) - 1
    escapes = (zeros // _ESCAPE).cumsum(0)
    gaps = torch.full((len(rows) + (int(escapes[-1]) if len(rows) else 0),), _ESCAPE, dtype=torch.uint8)
    gaps[torch.arange(len(rows)) + escapes] = (zeros % _ESCAPE).to(torch.uint8)
    return gaps


def _starts(counts: torch.Tensor) -> torch.Tensor:
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
