import pytest
import torch

from elsa.sparsity.bits import pack, unpack


@pytest.mark.parametrize("shape", [(8,), (3, 5), (64, 33), (0, 4)])
def test_a_mask_survives_at_one_bit_an_entry(shape):
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(0)) < 0.3
    packed = pack(mask)
    assert packed.nbytes == -(-mask.numel() // 8)
    assert torch.equal(unpack(packed, mask.shape), mask)


def test_a_transposed_mask_keeps_its_places():
    mask = torch.rand(7, 9, generator=torch.Generator().manual_seed(0)).t() < 0.5
    assert torch.equal(unpack(pack(mask), mask.shape), mask)
