"""Which tokens of a window are scored: one that is context alone is stored as −1 − id, below 0.

Text is scored throughout, so its windows are plain ids. Whoever reads windows takes ids and targets from here.

Shapes: N windows of L tokens (`windows_NL`), T = N · (L − 1) next tokens.
"""

from typing import TypeVar

import numpy as np
import torch

IGNORED = -100  # the target that torch's losses leave out

Ids = TypeVar("Ids", np.ndarray, torch.Tensor)


def as_context(ids: Ids) -> Ids:
    """Tokens that are read and not scored."""
    return -1 - ids


def token_ids(windows_NL: torch.Tensor) -> torch.Tensor:
    """The ids [N, L] that a model reads."""
    return torch.where(windows_NL < 0, -1 - windows_NL, windows_NL)


def next_tokens(windows_NL: torch.Tensor) -> torch.Tensor:
    """The targets [T], `IGNORED` where they are not scored."""
    following = windows_NL[:, 1:].flatten()
    return following.masked_fill(following < 0, IGNORED)


def scored(windows_NL: torch.Tensor) -> int:
    """How many of the next tokens are scored."""
    return int((windows_NL[:, 1:] >= 0).sum())
