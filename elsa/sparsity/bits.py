"""A mask at one bit an entry, row by row, so that it can be spread over ranks as the rows of its weight are.

Shapes: O rows of I entries, B = ceil(I / 8) bytes a row.
"""

import torch


def pack(mask_OI: torch.Tensor) -> torch.Tensor:
    """Eight entries of a row of a bool tensor to a byte: uint8 [O, B]."""
    outputs, inputs = mask_OI.shape
    padded = torch.nn.functional.pad(mask_OI, (0, -inputs % 8)).view(outputs, -(-inputs // 8), 8)
    packed = torch.zeros(padded.shape[:2], dtype=torch.uint8, device=mask_OI.device)
    for bit in range(8):
        packed |= padded[..., bit].to(torch.uint8) << bit
    return packed


def unpack(packed_OB: torch.Tensor, inputs: int) -> torch.Tensor:
    """The bool tensor [O, I] of `inputs` entries a row that `pack` was given."""
    bits = torch.stack([(packed_OB >> bit) & 1 for bit in range(8)], dim=2)
    return bits.flatten(1)[:, :inputs].bool()


def by_rows(packed: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """What older checkpoints hold, eight entries in memory order to a byte whatever the row, as `pack` gives it."""
    if packed.dim() == 2:
        return packed
    bits = torch.stack([(packed >> bit) & 1 for bit in range(8)], dim=1)
    return pack(bits.view(-1)[: shape.numel()].view(shape).bool())
