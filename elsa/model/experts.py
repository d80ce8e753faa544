"""Experts and routers, found by structure: parameters that hold a matrix for each of several experts.

Shapes: E experts, O outputs and I inputs of each one's matrix.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from elsa.errors import UserError

_GATED = 2  # parts of the first matrix of an expert with a gate


@dataclass(frozen=True)
class Fused:
    """A parameter [E, O, I] of a module, or [E, I, O] if `transposed`. `name`: in its module."""

    name: str
    experts: int
    transposed: bool


def fused(module: nn.Module, path: str) -> list[Fused]:
    """The parameters of a module (not of its children) that hold experts' matrices; none of most modules.

    An expert has two matrices, in the order of their use, of which the second has as many inputs as the first has
    outputs, or half as many behind a gate, and gives what the first takes. That, and `is_transposed` where transformers
    says so, tells the layout. A parameter alone in its module is read as the module's `input_size` and `output_size`
    say. Raises `UserError` if both layouts would do.
    """
    found = [(n, p.shape) for n, p in module.named_parameters(recurse=False) if p.dim() == 3 and min(p.shape[1:]) > 1]
    if len(found) == 1:
        sizes = (getattr(module, "output_size", None), getattr(module, "input_size", None))
        fits = {layout: found for layout in (False, True) if _sides(found[0][1], layout) == sizes}
    elif len(found) == 2 and found[0][1][0] == found[1][1][0]:
        said = getattr(module, "is_transposed", None)
        layouts = [layout for layout in (False, True) if said in (None, layout)]
        fits = {layout: order for layout in layouts for order in (found[::-1], found) if _chained(order, layout)}
    else:
        return []
    if len(fits) > 1:
        what = " and ".join(f"{name} {list(shape)}" for name, shape in found)
        raise UserError(f"model: {path} has experts' matrices ({what}), and nothing says which sides are their inputs")
    return [Fused(name, shape[0], layout) for layout, order in fits.items() for name, shape in order]


def routers(block: nn.Module) -> dict[str, nn.Parameter]:
    """By name, the matrices that choose among experts, or weigh them: they are left as they are.

    A child beside experts that holds a single matrix, with a row for each expert (a router), or with one row (the gate
    of a shared expert).
    """
    found = {}
    for path, parent in block.named_modules():
        children = dict(parent.named_children())
        counts = {name: _experts_in(child, f"{path}.{name}") for name, child in children.items()}
        beside = set(counts.values()) - {0}
        for name, child in children.items():
            matrices = [(inside, p) for inside, p in child.named_parameters() if p.dim() >= 2]
            if beside and not counts[name] and len(matrices) == 1:
                inside, parameter = matrices[0]
                if parameter.dim() == 2 and parameter.shape[0] in beside | {1}:
                    found[f"{path}.{name}.{inside}".removeprefix(".")] = parameter
    return found


def _sides(shape: torch.Size, transposed: bool) -> tuple[int, int]:
    """Outputs and inputs of each matrix in this layout."""
    return (shape[2], shape[1]) if transposed else (shape[1], shape[2])


def _chained(order: list[tuple[str, torch.Size]], transposed: bool) -> bool:
    """Whether one expert's matrices fit behind each other in this order and layout."""
    (outputs, inputs), (last_outputs, last_inputs) = (_sides(shape, transposed) for _, shape in order)
    return inputs == last_outputs and outputs in (last_inputs, _GATED * last_inputs)


def _experts_in(module: nn.Module, path: str) -> int:
    """How many experts a module is: fused ones, or a list of modules with linear layers of the same shapes."""
    if isinstance(module, nn.ModuleList) and len(module) > 1:
        kinds = {tuple(_shapes(each)) for each in module}
        return len(module) if len(kinds) == 1 and kinds != {()} else 0
    own = fused(module, path)
    return own[0].experts if own else 0


def _shapes(module: nn.Module) -> Iterator[torch.Size]:
    return (each.weight.shape for each in module.modules() if isinstance(each, nn.Linear))
