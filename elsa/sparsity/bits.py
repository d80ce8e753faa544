"""A mask at one bit an entry."""

import torch


def pack(mask: torch.Tensor) -> torch.Tensor:
    """Eight entries of a bool tensor, in memory order, to a byte: uint8 [ceil(n / 8)]."""
    flat = mask.reshape(-1)
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % 8)).view(-1, 8)
    packed = torch.zeros(len(padded), dtype=torch.uint8, device=mask.device)
    for bit in range(8):
        packed |= padded[:, bit].to(torch.uint8) << bit
    return packed


def unpack(packed: torch.Tensor, shape: torch.Size) -> torch.Tensor:
    """The bool tensor of this shape that `pack` was given."""
    bits = torch.stack([(packed >> bit) & 1 for bit in range(8)], dim=1)
    return bits.view(-1)[: shape.numel()].view(shape).bool()
