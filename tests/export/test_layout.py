"""Matrices as they lie on disk."""

import dataclasses

import pytest
import torch

from elsa.errors import UserError
from elsa.export.layout import LAYOUTS, Packed, entropy_bytes, entry_of, pack_matrix, part_shapes, quantized


def random_matrix(outputs, inputs, share, dtype=torch.float32):
    generator = torch.Generator().manual_seed(outputs * 1000 + inputs)
    values = torch.randn(outputs, inputs, generator=generator)
    return (values * (torch.rand(outputs, inputs, generator=generator) < share)).to(dtype)


def with_gaps_over_255():
    matrix = torch.zeros(4, 1200)
    matrix[0, 255], matrix[0, 1199] = 1.0, 2.0  # 255 zeros, then 943
    matrix[1, 254], matrix[3, 510] = 3.0, 4.0  # 254, a row of zeros, 510 = 2 · 255
    return matrix


MATRICES = {
    "an empty row": torch.tensor([[1.0, 0.0, 2.0], [0.0, 0.0, 0.0], [0.0, 3.0, 0.0]]),
    "all zero": torch.zeros(3, 5),
    "no zero": torch.ones(3, 9),
    "one column": torch.tensor([[1.0], [0.0], [2.0]]),
    "one row": random_matrix(1, 31, 0.5),
    "gaps over 255": with_gaps_over_255(),
    **{f"{inputs} columns": random_matrix(6, inputs, 0.3) for inputs in (7, 8, 9, 32, 33, 100)},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.int8])
@pytest.mark.parametrize("matrix", MATRICES.values(), ids=MATRICES)
def test_what_is_packed_comes_back_to_the_bit(matrix, dtype, layout):
    matrix = (matrix * 10).to(dtype)
    packed = pack_matrix(matrix, layout)
    assert {name: tuple(part.shape) for name, part in packed.parts.items()} == part_shapes(entry_of(packed, False))
    back = packed.csr().dense(dtype)
    assert torch.equal(back, matrix)
    assert torch.equal(packed.csr().dense(dtype, transposed=True), matrix)


def test_minus_zero_is_a_zero():
    packed = pack_matrix(torch.tensor([[-0.0, 1.0]]), "bits")
    assert packed.parts["values"].tolist() == [1.0]
    assert not packed.csr().dense(torch.float32)[0, 0].signbit()


@pytest.mark.parametrize(("share", "bits", "gaps"), [(0.5, 1.78, 1.33), (0.1, 6.15, 6.67), (0.05, 8.89, 13.33)])
def test_bytes_are_as_computed_by_hand(share, bits, gaps):
    """Bytes of dense bfloat16 over those of a layout."""
    matrix = random_matrix(1024, 4096, share, torch.bfloat16)
    for layout, times in (("bits", bits), ("gaps", gaps)):
        assert matrix.nbytes / pack_matrix(matrix, layout).nbytes == pytest.approx(times, rel=0.02)


def test_counts_are_wide_where_rows_are():
    for inputs, dtype in ((32767, torch.int16), (32768, torch.int32)):
        packed = pack_matrix(torch.ones(2, inputs), "gaps")
        assert packed.parts["counts"].dtype == dtype
        assert packed.parts["counts"].tolist() == [inputs, inputs]


@pytest.mark.parametrize("share", [0.5, 0.3, 0.2, 0.13, 0.1, 0.05])
def test_the_smallest_layout_is_chosen_and_near_the_entropy_bound(share):
    matrix = random_matrix(576, 1536, share, torch.bfloat16)
    packed = pack_matrix(matrix)
    assert packed.nbytes == min(pack_matrix(matrix, layout).nbytes for layout in LAYOUTS)
    assert packed.nbytes <= 1.19 * entropy_bytes(int((matrix != 0).sum()), matrix.numel(), 2)
    assert pack_matrix(torch.ones(8, 8)).layout == "dense"


def test_the_entropy_bound_is_shannons():
    assert entropy_bytes(4, 8, 2) == 8 / 8 + 4 * 2  # a fair coin for each entry
    assert entropy_bytes(0, 8, 2) == 0
    assert entropy_bytes(8, 8, 2) == 16


def test_int8_keeps_zeros_and_is_within_half_a_step():
    matrix = random_matrix(5, 40, 0.5)
    values, scale = quantized(matrix)
    assert values.dtype == torch.int8
    assert bool((values[matrix == 0] == 0).all())
    assert float(((values * scale[:, None] - matrix).abs() / scale[:, None]).max()) <= 0.5 + 1e-5
    assert values.abs().amax(1).tolist() == [127] * 5
    packed = pack_matrix(values, "gaps", scale)
    assert torch.equal(packed.csr().dense(torch.float32), values * scale[:, None])
    assert quantized(torch.zeros(2, 3))[1].tolist() == [1.0, 1.0]  # no division by zero


def broken(part, change, layout):
    packed = pack_matrix(with_gaps_over_255(), layout)
    return dataclasses.replace(packed, parts=packed.parts | {part: change(packed.parts[part].clone())})


def put(where, value):
    def change(tensor):
        tensor.view(-1)[where] = value
        return tensor

    return change


@pytest.mark.parametrize(
    ("part", "change", "layout", "said"),
    [
        ("counts", put(0, 5), "gaps", "rows of 7 values"),
        ("counts", put(0, -1), "gaps", "gaps before values"),
        ("gaps", put(-1, 255), "gaps", "gaps before values"),
        ("gaps", lambda gaps: torch.cat([gaps, gaps.new_tensor([255])]), "gaps", "gaps before values"),
        ("gaps", put(5, 254), "gaps", "lead to column 1,275 of 1,200"),
        ("values", lambda values: values[:-1], "gaps", "places for 4 values, and 3 values"),
        ("bits", put(0, 1), "bits", "places for 5 values, and 4 values"),
    ],
)
def test_parts_that_disagree_are_refused(part, change, layout, said):
    with pytest.raises(UserError, match=said):
        broken(part, change, layout).csr()


def test_a_bit_beyond_the_last_column_is_refused():
    packed = pack_matrix(torch.ones(1, 3), "bits")
    packed.parts["bits"][0, 0] |= 1 << 3
    with pytest.raises(UserError, match="columns that it has not"):
        packed.csr()


def test_the_checksum_is_of_every_part():
    packed = pack_matrix(with_gaps_over_255(), "gaps")
    for name, part in packed.parts.items():
        other = part.clone()
        other.view(torch.uint8).view(-1)[-1] ^= 1
        assert Packed("gaps", packed.shape, packed.parts | {name: other}).checksum != packed.checksum


@pytest.mark.parametrize(
    "entry", [{}, {"layout": "bits"}, {"layout": "zip", "shape": [1, 1], "values": 1}, {"shape": 3}]
)
def test_an_entry_that_lacks_something_is_refused(entry):
    with pytest.raises(UserError):
        part_shapes(entry)
