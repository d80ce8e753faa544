"""Experts' matrices that lie sparse on disk: dense in memory, for no kernel here multiplies several at once."""

from typing import Any

import torch
from torch import nn

from elsa.errors import UserError
from elsa.export.layout import Packed, part_dtypes, part_shapes
from elsa.globs import expert_name, stored_name

_HELD = "_elsa_experts"  # attribute of a module: see `packed_experts`, by names in the module


def make_room(model: nn.Module, name: str, entry: dict[str, Any], dtype: torch.dtype) -> None:
    """Buffers for the matrix of that name as it lies on disk, in the place of its part of the parameter."""
    module, attribute, expert = _place(model, name)
    parameter = module._parameters.pop(attribute, None)
    if parameter is not None:
        empty = torch.empty_like(parameter, device="meta")
        empty._is_hf_initialized = True  # type: ignore[attr-defined] # the mark of transformers: not to be drawn
        setattr(module, attribute, empty)
    if getattr(module, attribute, torch.empty(0)).dim() != 3:
        raise UserError(f"{name} is in this model no matrix of an expert")
    dtypes = part_dtypes(tuple(entry["shape"])) | {"values": torch.int8 if entry.get("scaled") else dtype}
    for part, shape in part_shapes(entry).items():
        empty = torch.empty(shape, dtype=dtypes[part], device="meta")
        module.register_buffer(f"{expert_name(attribute, expert)}_{part}", empty)


def settle_experts(model: nn.Module, entries: dict[str, Any], dtype: torch.dtype) -> None:
    """Make parameters of what was loaded into the room for these matrices. `UserError` if their parts are broken."""
    parameters: dict[str, list[str]] = {}
    for name in sorted(entries, key=lambda each: stored_name(each)[1] or 0):
        if stored_name(name)[1] is not None:
            parameters.setdefault(stored_name(name)[0], []).append(name)
    for names in parameters.values():
        module, attribute, _ = _place(model, names[0])
        matrices, held = list[torch.Tensor](), list[tuple[Packed, bool]]()
        for name in names:
            entry, transposed = entries[name], entries[name].get("transposed", False)
            packed = _taken(module, f"{expert_name(attribute, len(held))}", entry)
            matrix_OI = packed.csr().dense(dtype, transposed)
            matrices.append(matrix_OI.t() if transposed else matrix_OI)
            parts = {key: part.cpu() for key, part in packed.parts.items()}
            held.append((Packed(packed.layout, packed.shape, parts), transposed))
        delattr(module, attribute)
        module.register_parameter(attribute, nn.Parameter(torch.stack(matrices), requires_grad=False))
        setattr(module, _HELD, getattr(module, _HELD, {}) | {attribute: held})


def packed_experts(model: nn.Module) -> dict[str, list[tuple[Packed, bool]]]:
    """By the name of their parameter, the matrices of a loaded model as they lie on disk, each with whether its module
    stores it as [I, O].
    """
    return {
        f"{path}.{attribute}": matrices
        for path, module in model.named_modules()
        for attribute, matrices in getattr(module, _HELD, {}).items()
    }


def _place(model: nn.Module, name: str) -> tuple[nn.Module, str, int]:
    parameter, expert = stored_name(name)
    path, _, attribute = parameter.rpartition(".")
    assert expert is not None, "it is an expert's"
    return model.get_submodule(path), attribute, expert


def _taken(module: nn.Module, name: str, entry: dict[str, Any]) -> Packed:
    parts = {part: module._buffers.pop(f"{name}_{part}") for part in part_shapes(entry)}
    if any(part is None or part.is_meta for part in parts.values()):
        raise UserError(f"{name} is not in memory; a device map that leaves weights on disk is not for sparse ones")
    outputs, inputs = entry["shape"]
    return Packed(entry["layout"], (outputs, inputs), {key: part for key, part in parts.items() if part is not None})
