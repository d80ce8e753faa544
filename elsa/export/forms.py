"""How a sparse matrix lies in memory while a model runs, and how it multiplies there.

Shapes: O outputs, I inputs, T tokens, N values.
"""

import importlib.util
import warnings
from abc import ABC, abstractmethod
from math import ceil
from typing import ClassVar

import torch
from torch.nn import functional as F
from torch.sparse import to_sparse_semi_structured

from elsa.errors import did_you_mean, require
from elsa.export.kernels import cpu_kernels, gpu
from elsa.export.layout import Csr
from elsa.sparsity.bits import pack, unpack

LONGEST = 16  # tokens for which a sparse product is the faster one; the matrix is made dense for a call with more
_WORD = 32  # columns of a word of bits
_DENSEST, _DENSEST_WIDE = 0.3, 0.8  # share of values above which a dense matrix is faster on a CPU
_SPARSEST = 1 / 8  # share of values below which 16 bits a value are faster than a bit an entry on a CPU
_FEWEST_BYTES = 1 / 16  # and below which they are fewer
_WIDEST = 1 << 16  # columns that 16 bits can name

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

    def dense(self, held: Held, inputs: int, dtype: torch.dtype, transposed: bool) -> torch.Tensor:
        """The matrix [O, I] with its zeros, in memory as [I, O] if `transposed`."""
        return self.csr(held, inputs).dense(dtype, transposed)


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


class _Compact(Form):
    """The values in few bytes, and `places`, where they stand."""

    def hold(self, csr: Csr, dtype: torch.dtype) -> Held:
        return {"places": self.places(csr), "rows": csr.rows, "values": _with_room(csr.values.to(self.narrow(dtype)))}

    @staticmethod
    @abstractmethod
    def narrow(dtype: torch.dtype) -> torch.dtype:
        """Of the values in a model of `dtype`."""

    @abstractmethod
    def places(self, csr: Csr) -> torch.Tensor:
        """Where the values stand."""


class _Bits(_Compact):
    """A bit an entry, in words of 32 columns: int32 [O, C]."""

    name = "bits"

    def places(self, csr: Csr) -> torch.Tensor:
        outputs, words = len(csr.rows) - 1, ceil(csr.inputs / _WORD)
        numbers = torch.arange(outputs, device=csr.rows.device)
        mask_OI = torch.zeros(outputs, words * _WORD, dtype=torch.bool, device=csr.rows.device)
        mask_OI[csr.of_each(numbers), csr.columns.long()] = True
        return pack(mask_OI).view(torch.int32)

    def csr(self, held: Held, inputs: int) -> Csr:
        columns = unpack(held["places"].view(torch.uint8), inputs).nonzero()[:, 1]
        return Csr(held["rows"], columns.int(), held["values"][:-_WORD], inputs)


class _Csr16(_Compact):
    """16 bits a value for its column: int16 [N], to be read as unsigned."""

    name = "csr16"

    def places(self, csr: Csr) -> torch.Tensor:
        require(csr.inputs <= _WIDEST, "form", self.name, f"at most {_WIDEST:,} columns, here {csr.inputs:,}")
        return _with_room(csr.columns.to(torch.int16))

    def csr(self, held: Held, inputs: int) -> Csr:
        columns = held["places"][:-_WORD].int() & (_WIDEST - 1)
        return Csr(held["rows"], columns, held["values"][:-_WORD], inputs)


class _OnCpu(_Compact):
    """By kernels of this package, which a C++ compiler builds once."""

    @staticmethod
    def runs_on(device: torch.device) -> bool:
        return device.type == "cpu" and cpu_kernels() is None

    @staticmethod
    def narrow(dtype: torch.dtype) -> torch.dtype:
        return dtype if dtype == torch.bfloat16 else torch.float32

    def product(self, held: Held, x_TI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        y_TO: torch.Tensor = torch.ops.elsa_cpu.product(held["places"], held["rows"], held["values"], x_TI)
        return y_TO if bias_O is None else y_TO + bias_O

    def dense(self, held: Held, inputs: int, dtype: torch.dtype, transposed: bool) -> torch.Tensor:
        weight_OI: torch.Tensor = torch.ops.elsa_cpu.dense(held["places"], held["rows"], held["values"], inputs)
        return weight_OI.t().contiguous().t().to(dtype) if transposed else weight_OI.to(dtype)


class _OnGpu(_Compact):
    """By Triton's kernels."""

    @staticmethod
    def runs_on(device: torch.device) -> bool:
        return gpu.runs_on(device)

    @staticmethod
    def narrow(dtype: torch.dtype) -> torch.dtype:
        return dtype

    def product(self, held: Held, x_TI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        y_TO: torch.Tensor = gpu.product(held["places"], held["rows"], held["values"], x_TI)
        return y_TO if bias_O is None else y_TO + bias_O


class CpuBits(_OnCpu, _Bits):
    pass


class CpuCsr16(_OnCpu, _Csr16):
    pass


class GpuBits(_OnGpu, _Bits):
    pass


class GpuCsr16(_OnGpu, _Csr16):
    pass


class SemiStructured(Form):
    """Two of four, by torch's own sparse tensors for tensor cores (Ampere and later); faster for many tokens only."""

    name = "2:4"

    @staticmethod
    def runs_on(device: torch.device) -> bool:
        return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0)

    def hold(self, csr: Csr, dtype: torch.dtype) -> Held:
        weight_OI = csr.dense(dtype)
        fits = csr.inputs % 4 == 0 and bool(((weight_OI.reshape(-1, 4) != 0).sum(1) <= 2).all())
        require(fits, "form", self.name, "a matrix has more than two values in a group of four")
        return {"packed": to_sparse_semi_structured(weight_OI)}

    def product(self, held: Held, x_TI: torch.Tensor, bias_O: torch.Tensor | None) -> torch.Tensor:
        return F.linear(x_TI, held["packed"], bias_O)

    def csr(self, held: Held, inputs: int) -> Csr:
        return Csr.of(held["packed"].to_dense())


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


FORMS: tuple[type[Form], ...] = (CpuBits, CpuCsr16, TorchCsr, ScipyCsr, GpuBits, GpuCsr16, SemiStructured, Dense)


def forms_on(device: torch.device) -> dict[str, type[Form]]:
    """The forms that run there, by name, the one to prefer first."""
    return {each.name: each for each in FORMS if each.runs_on(device)}


def form(name: str, device: torch.device) -> Form:
    """The form of that name. Raises `UserError` if there is none, or if it does not run on `device`."""
    known, here = {each.name for each in FORMS}, forms_on(device)
    require(name in known, "form", name, did_you_mean(name, known))
    require(name in here, "form", name, f"not on {device.type} here, where there are {', '.join(here)}")
    return here[name]()


def fitting(device: torch.device, share: float) -> Form:
    """The form for a matrix with this share of values: a rule, by the times that `elsa bench` measures on a CPU, and by
    bytes on a GPU.

    With this package's kernels it is 16 bits a value for the sparsest, and bits up to the share at which a dense matrix
    is faster; without them the first library that is here.
    """
    here = forms_on(device)
    if "bits" not in here:
        libraries = [here[name] for name in ("csr", "scipy") if name in here]
        return libraries[0]() if libraries and share <= _DENSEST else Dense()
    if device.type == "cpu":
        sparsest, densest = _SPARSEST, _DENSEST_WIDE if torch.ops.elsa_cpu.is_wide() else _DENSEST
    else:
        sparsest, densest = _FEWEST_BYTES, _DENSEST_WIDE
    if share > densest:
        return Dense()
    return here["csr16" if share < sparsest else "bits"]()


def _with_room(tensor: torch.Tensor) -> torch.Tensor:
    """With a word's worth of zeros, for the kernels read ahead."""
    return torch.cat([tensor, tensor.new_zeros(_WORD)])


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
