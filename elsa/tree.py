"""States are trees: dicts, lists and tuples with tensors and plain values at their ends."""

from collections.abc import Callable
from typing import Any

import torch


def replaced(tree: Any, by: Callable[[str, Any], Any], path: str = "state") -> Any:
    """The tree with what `by(path, value)` gives in the place of values, inner ones too, for which it is not None."""
    given = by(path, tree)
    if given is not None:
        return given
    if isinstance(tree, dict):
        return {name: replaced(value, by, f"{path}.{name}") for name, value in tree.items()}
    if isinstance(tree, (list, tuple)):
        return type(tree)(replaced(value, by, f"{path}.{number}") for number, value in enumerate(tree))
    return tree


def with_tensors(tree: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The tree with `change` done to all of its tensors."""
    return replaced(tree, lambda path, value: change(value) if isinstance(value, torch.Tensor) else None)
