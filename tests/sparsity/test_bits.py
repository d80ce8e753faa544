import pytest
import torch

from elsa.sparsity.bits import by_rows, pack, unpack


def mask_of(*shape):
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.3


@pytest.mark.parametrize("shape", [(3, 5), (64, 33), (8, 16), (0, 4), (0, 8)])
def test_a_mask_survives_at_one_bit_an_entry(shape):
    mask = mask_of(*shape)
    packed = pack(mask)
    assert packed.nbytes == shape[0] * -(-shape[1] // 8)
    assert torch.equal(unpack(packed, shape[1]), mask)


def test_a_transposed_mask_keeps_its_places():
    mask = mask_of(7, 9).t()
    assert torch.equal(unpack(pack(mask), 7), mask)


def test_the_rows_of_a_mask_can_be_packed_apart():
    mask = mask_of(7, 9)
    assert torch.equal(torch.cat([pack(mask[:3]), pack(mask[3:])]), pack(mask))


@pytest.mark.parametrize("shape", [(3, 5), (8, 16)])
def test_bits_that_were_packed_across_rows_are_read(shape):
    mask = mask_of(*shape)
    across = pack(mask.view(1, -1)).view(-1)
    assert torch.equal(by_rows(across, mask.shape), pack(mask))
    assert torch.equal(by_rows(pack(mask), mask.shape), pack(mask))
