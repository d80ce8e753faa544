"""A linear layer whose weight is sparse in memory too."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from elsa.errors import UserError
from elsa.export.forms import LONGEST, Form, fitting
from elsa.export.layout import Csr, Packed, pack_matrix, part_dtypes, part_shapes


class SparseLinear(nn.Module):
    """y = x Wᵀ + b, in the place of a `nn.Linear` or GPT-2's `Conv1D`.

    It is made with room for a matrix as it lies on disk, `entry` of config.json, and takes its form in memory by
    `settle`. `dtype`: of the bias, and of values that are no int8.
    """

    def __init__(self, entry: dict[str, Any], bias: bool, dtype: torch.dtype):
        super().__init__()
        self.out_features, self.in_features = entry["shape"]
        self.entry, self._dtype = entry, dtype
        self.form: Form | None = None
        dtypes = part_dtypes(tuple(entry["shape"])) | {"values": torch.int8 if entry.get("scaled") else dtype}
        for name, shape in part_shapes(entry).items():
            self.register_buffer(f"weight_{name}", torch.empty(shape, dtype=dtypes[name], device="meta"))
        empty = torch.empty(self.out_features, dtype=dtype, device="meta")
        self.bias = nn.Parameter(empty, requires_grad=False) if bias else None

    @classmethod
    def of(cls, weight_OI: torch.Tensor, bias_O: torch.Tensor | None, form: Form) -> "SparseLinear":
        """A layer with this matrix, in a form."""
        entry = {"layout": "dense", "shape": list(weight_OI.shape), "values": weight_OI.numel()}
        layer = cls(entry, bias_O is not None, weight_OI.dtype)
        layer.weight_values = weight_OI.reshape(-1)
        if bias_O is not None:
            layer.bias = nn.Parameter(bias_O, requires_grad=False)
        layer.settle(form)
        return layer

    def settle(self, form: Form | None = None) -> None:
        """Hold the matrix in `form`, by default in the one that fits it. Raises `UserError` if its parts are broken."""
        csr = self.csr()
        form = form or fitting(csr.values.device, len(csr.values) / (self.out_features * self.in_features))
        held = form.hold(csr, self._dtype)
        for name in set(self._buffers) - {"weight_scale"}:
            delattr(self, name)
        for name, tensor in held.items():
            self.register_buffer(f"held_{name}", tensor, persistent=False)
        self.form = form

    def csr(self) -> Csr:
        """Its matrix; values that lie on disk as int8 are multiplied by their scale."""
        return self._packed().csr() if self.form is None else self.form.csr(self._held, self.in_features)

    def packed(self) -> Packed:
        """Its matrix as it lies on disk."""
        if self.form is None:
            return self._packed()
        csr, scale_O = self.csr(), self._buffers.get("weight_scale")
        if scale_O is None:
            return pack_matrix(csr.dense(self._dtype).cpu(), self.entry["layout"])
        whole = csr._replace(values=(csr.values.float() / csr.of_each(scale_O)).round())
        return pack_matrix(whole.dense(torch.int8).cpu(), self.entry["layout"], scale_O.cpu())

    @property
    def weight(self) -> torch.Tensor:
        """The matrix with its zeros, as the layer that this one stands for has it: for code that asks for a weight's
        dtype or device, or draws it at random unless it is marked as loaded.
        """
        transposed = self.entry.get("transposed", False)
        if self.form is None:
            matrix_OI = torch.empty(self.out_features, self.in_features, dtype=self._dtype, device="meta")
        else:
            matrix_OI = self.form.dense(self._held, self.in_features, self._dtype, transposed)
        matrix = matrix_OI.t() if transposed else matrix_OI
        matrix._is_hf_initialized = True  # type: ignore[attr-defined] # the mark of transformers
        return matrix

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert self.form is not None, "it has not settled"
        x_TI = x.reshape(-1, self.in_features)
        if self.form.sparse and len(x_TI) > LONGEST:
            dense_OI = self.form.dense(self._held, self.in_features, x.dtype, self.entry.get("transposed", False))
            y_TO = F.linear(x_TI, dense_OI, self.bias)
        else:
            y_TO = self.form.product(self._held, x_TI, self.bias)
        return y_TO.reshape(*x.shape[:-1], self.out_features)

    def extra_repr(self) -> str:
        held = "on disk" if self.form is None else self.form.name
        return f"in_features={self.in_features}, out_features={self.out_features}, {held}"

    @property
    def _held(self) -> dict[str, torch.Tensor]:
        return {n.removeprefix("held_"): b for n, b in self._buffers.items() if n.startswith("held_") and b is not None}

    def _packed(self) -> Packed:
        parts = {name: self.get_buffer(f"weight_{name}") for name in part_shapes(self.entry)}
        if any(part.is_meta for part in parts.values()):
            raise UserError("it is not in memory; a device map that leaves weights on disk is not for sparse ones")
        outputs, inputs = self.entry["shape"]
        return Packed(self.entry["layout"], (outputs, inputs), parts)
