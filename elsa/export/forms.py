"""How a sparse matrix lies in memory while a model runs, and how it multiplies there.

Shapes: O outputs, I inputs, T tokens, N values.
"""

import importlib.util
import warnings
from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch.nn import functional as F

from elsa.errors import did_you_mean, require
from elsa.export.layout import Csr

LONGEST = 16  # tokens for which a sparse product is the faster one; the matrix is made dense for a call with more
DENSEST = 0.35  # share of values above which a CPU is faster with the dense matrix

Held = dict[str, torch.Tensor]  # by name; a module holds them as its buffers


class Form(ABC):
    """A way to hold one matrix. An instance keeps nothing but what it can make again from the tensors it is given."""

    name: ClassVar[str]
    sparse: ClassVar[bool] = True

    def __deepcopy__(self, memo: object) -> "Form":
        return type(self)()

    @staticmethod
    @abstractmethod
    def runs_on(device: torch.device) -> bool:
        """Whether this machine has what it needs there."""

    @abstractmethod
    def hold(self, csr: Csr, dtype: torch.dtype) -> Held:
        """What it keeps of a matrix of a model in `dtype`."""

    @abstractmethod
    def product(self, held: Held, x_TI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        """x Wᵀ + b [T, O], in the dtype of x."""

    @abstractmethod
    def csr(self, held: Held, inputs: int) -> Csr:
        """The matrix again."""


class Dense(Form):
    """As any linear layer has it."""

    name = "dense"
    sparse = False

    @staticmethod
    def runs_on(device: torch.device) -> bool:
        return True

    def hold(self, csr: Csr, dtype: torch.dtype) -> Held:
        return {"dense": csr.dense(dtype)}

    def product(self, held: Held, x_TI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        return F.linear(x_TI, held["dense"], bias_O)

    def csr(self, held: Held, inputs: int) -> Csr:
        return Csr.of(held["dense"])


class _Fp32Csr(Form):
    """32-bit indices and values: the libraries of CPUs have no kernels for fewer."""

    def hold(self, csr: Csr, dtype: torch.dtype) -> Held:
        return {"rows": csr.rows, "columns": csr.columns, "values": csr.values.float()}

    def csr(self, held: Held, inputs: int) -> Csr:
        return Csr(held["rows"], held["columns"], held["values"], inputs)


class TorchCsr(_Fp32Csr):
    """torch.sparse_csr, whose product is MKL's (x86 alone)."""

    name = "csr"

    def __init__(self) -> None:
        self._known: tuple[torch.Tensor, torch.Tensor] | None = None  # values, and the CSR tensor made of them

    @staticmethod
    def runs_on(device: torch.device) -> bool:
        return device.type == "cpu" and torch.backends.mkl.is_available()

    def product(self, held: Held, x_TI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        y_TO: torch.Tensor
        if torch.compiler.is_compiling():
            y_TO = csr_product(held["rows"], held["columns"], held["values"], x_TI)
        else:
            if self._known is None or self._known[0] is not held["values"]:
                self._known = held["values"], _csr_tensor(held["rows"], held["columns"], held["values"], x_TI.shape[1])
            y_TO = _times(self._known[1], x_TI)
        return y_TO if bias_O is None else y_TO + bias_O


class ScipyCsr(_Fp32Csr):
    """scipy's, on any CPU, in one thread."""

    name = "scipy"

    @staticmethod
    def runs_on(device: torch.device) -> bool:
        return device.type == "cpu" and importlib.util.find_spec("scipy") is not None

    def product(self, held: Held, x_TI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        from scipy.sparse import csr_array  # late: only where torch has no kernel

        shape = (len(held["rows"]) - 1, x_TI.shape[1])
        parts = tuple(held[name].numpy() for name in ("values", "columns", "rows"))
        found = csr_array(parts, shape=shape) @ x_TI.detach().float().numpy().T
        y_TO = torch.from_numpy(found.T).to(x_TI.dtype)
        return y_TO if bias_O is None else y_TO + bias_O


FORMS: dict[str, type[Form]] = {each.name: each for each in (TorchCsr, ScipyCsr, Dense)}


def form(name: str, device: torch.device) -> Form:
    """The form of that name. Raises `UserError` if there is none, or if it does not run on `device`."""
    require(name in FORMS, "form", name, did_you_mean(name, FORMS))
    here = [each for each in FORMS if FORMS[each].runs_on(device)]
    require(name in here, "form", name, f"not on {device.type} here, where there are {', '.join(here)}")
    return FORMS[name]()


def fitting(device: torch.device, share: float) -> Form:
    """The form for a matrix with this share of values: a rule, from the times that `elsa bench` measures."""
    if share > DENSEST:
        return Dense()
    return next(each for each in FORMS.values() if each.runs_on(device))()


def _csr_tensor(rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, inputs: int) -> torch.Tensor:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta")
        shape = (len(rows) - 1, inputs)
        matrix: torch.Tensor = torch.sparse_csr_tensor(rows, columns, values, shape, check_invariants=False)
        return matrix


def _times(matrix: torch.Tensor, x_TI: torch.Tensor) -> torch.Tensor:
    x = x_TI.float()
    y_TO: torch.Tensor = torch.mv(matrix, x[0])[None] if len(x) == 1 else (matrix @ x.t()).t()
    return y_TO.to(x_TI.dtype)


@torch.library.custom_op("elsa::csr_product", mutates_args=())
def csr_product(rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, x_TI: torch.Tensor) -> torch.Tensor:
    """The product of `TorchCsr` as one operation of a compiled graph, which knows no sparse tensors."""
    return _times(_csr_tensor(rows, columns, values, x_TI.shape[1]), x_TI).contiguous()


@csr_product.register_fake
def _(rows: torch.Tensor, columns: torch.Tensor, values: torch.Tensor, x_TI: torch.Tensor) -> torch.Tensor:
    return x_TI.new_empty(len(x_TI), len(rows) - 1)
