"""The sparse copy z and the scaled dual u of ADMM, held as one tensor and a mask bit, or as the paper holds them.

After a z/u update with step size 1 the two never overlap: on the support u = 0 and z = x + u, off it z = 0 and
u = x + u. So `split` = z − u holds both, and the mask of what is kept tells which:

    z = split where kept, 0 elsewhere          u = 0 where kept, −split elsewhere

`Dual` has other updates of u; all leave it at 0 on the support, so that this stays exact.

Everything here is element by element, so that the rows of a weight that one rank holds have a state of their own; what
is kept is marked by a `Selector`, which knows of the others. Source: arXiv:2510.01650 for the updates; the merged form
is this project's. Weights are [O, I].
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

import torch

from elsa.admm.storage import Stored
from elsa.distributed.ranks import ONE, Ranks
from elsa.sparsity.bits import by_rows, pack, unpack
from elsa.sparsity.pattern import Selector
from elsa.sparsity.projection import saliency
from elsa.train.precision import Precision

_PAPER_MARGIN = 1.05  # of the paper's fp8 scale: the largest |z| is at 1 / 1.05 of what fp8 can hold


@dataclass(frozen=True)
class Dual:
    """u ← retention · (u + step · (x − z)) off the support of z, no entry beyond ±`bound`; 0 on the support.

    The defaults are ADMM's u + x − z, which is 0 on the support by itself. With another `step` that would leave
    (1 − step) · u on entries that have just come to the support; here it is dropped.
    """

    retention: float = 1.0
    step: float = 1.0
    bound: float | None = None

    def of(self, residual: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        """The new u where z is 0. `residual`: u + x − z; `weight`: x."""
        dual = residual if self.step == 1 else residual - (1 - self.step) * weight
        dual = dual if self.retention == 1 else dual * self.retention
        return dual if self.bound is None else dual.clamp(-self.bound, self.bound)


ADMM = Dual()


class State(ABC):
    """z and u of one weight."""

    @abstractmethod
    def difference(self) -> torch.Tensor:
        """z − u."""

    def kept(self) -> tuple[torch.Tensor, torch.Tensor | None] | None:
        """z − u as it is kept, values and scale of fp8; None if it is not kept as one tensor."""
        return None

    @abstractmethod
    def sparse(self) -> torch.Tensor:
        """z."""

    @abstractmethod
    def mask(self) -> torch.Tensor:
        """The support of z, bool [O, I]."""

    @abstractmethod
    def _target(self, weight: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """x + u, fp32. `before`: the support of z as it was."""

    @abstractmethod
    def _take(self, target: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, dual: Dual) -> torch.Tensor:
        """z ← target where kept, u as `dual` says. Returns the support of z, which fp8 can make smaller."""

    def update(
        self,
        weight_OI: torch.Tensor,
        selector: Selector,
        importance_OI: torch.Tensor | None = None,
        dual: Dual = ADMM,
    ) -> torch.Tensor:
        """z ← projection of x + u, then u as `dual` says. Returns how many mask entries changed, as a scalar tensor."""
        before, weight = self.mask(), weight_OI.float()
        target = self._target(weight, before)
        after = self._take(target, selector.mask(saliency(target, importance_OI)), weight, dual)
        return (after != before).sum()

    def saliency(self, weight_OI: torch.Tensor, importance_OI: torch.Tensor | None = None) -> torch.Tensor:
        """What zeroing each entry of x + u would cost, fp32: what the next update goes by."""
        return saliency(self._target(weight_OI.float(), self.mask()), importance_OI)

    @abstractmethod
    def rescale_dual(self, factor: float) -> None:
        """u ← factor · u, due at the moment λ changes (factor = λ_old / λ_new)."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes that are really held."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """For a checkpoint."""

    @abstractmethod
    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` gave."""

    def add_proximal_gradient(self, gradient: torch.Tensor, weight: torch.Tensor, penalty: float) -> None:
        """gradient += λ (x − z + u), in place."""
        gradient.add_(weight - self.difference(), alpha=penalty)

    def residual_squared(self, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """‖x − z‖² and ‖z‖², as scalars on the weight's device."""
        sparse = self.sparse().float()
        return (weight - sparse).square().sum(), sparse.square().sum()


class MergedState(State):
    """One tensor in `precision` and one bit a weight."""

    def __init__(
        self,
        weight_OI: torch.Tensor,
        selector: Selector,
        precision: str = "float32",
        support: torch.Tensor | None = None,
    ):
        """u = 0 and z the magnitude projection of the dense weight at the full target sparsity, or on `support`."""
        self._precision, self._shape = precision, weight_OI.shape
        mask = selector.mask(saliency(weight_OI)) if support is None else support
        self._keep(weight_OI * mask, mask)

    def _keep(self, split: torch.Tensor, mask: torch.Tensor) -> None:
        self._split, self._bits = Stored.of(split, self._precision), pack(mask)

    def mask(self) -> torch.Tensor:
        return unpack(self._bits, self._shape[1])

    def difference(self) -> torch.Tensor:
        return self._split.read()

    def kept(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        return self._split.values, self._split.scale

    def sparse(self) -> torch.Tensor:
        return self._split.read() * self.mask()

    def _target(self, weight: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        # u is 0 on the support, where split is z; off it z is 0, so that split is −u.
        return torch.where(before, weight, weight - self._split.read())

    def _take(self, target: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, dual: Dual) -> torch.Tensor:
        # On the new support z = x + u and u = 0; off it z = 0, and the residual x + u − z is the target itself.
        self._keep(torch.where(mask, target, -dual.of(target, weight)), mask)
        return mask

    def rescale_dual(self, factor: float) -> None:
        split, mask = self._split.read(), self.mask()
        # on the support it is z, which is no force and knows no λ
        self._split = Stored.of(torch.where(mask, split, split * factor), self._precision)

    @property
    def nbytes(self) -> int:
        return self._split.nbytes + self._bits.nbytes

    def state(self) -> dict[str, Any]:
        return {"split": self._split.state(), "bits": self._bits}

    def restore(self, state: dict[str, Any]) -> None:
        self._split.take(**state["split"])
        self._bits.copy_(state["bits"])


class SeparateState(State):
    """z and u as two tensors: the paper's layout, with its one scale a tensor and margin 1.05 where z is fp8."""

    def __init__(
        self,
        weight_OI: torch.Tensor,
        selector: Selector,
        precision: str,
        dual_precision: str,
        support: torch.Tensor | None = None,
        ranks: Ranks = ONE,
    ):
        self._precision, self._dual_precision, self._ranks = precision, dual_precision, ranks
        self._sparse = self._stored(weight_OI * (selector.mask(saliency(weight_OI)) if support is None else support))
        self._dual = Stored.of(torch.zeros_like(weight_OI), dual_precision)

    def _stored(self, sparse: torch.Tensor) -> Stored:
        return Stored.of(sparse, self._precision, _PAPER_MARGIN, self._ranks)

    def mask(self) -> torch.Tensor:
        return self.sparse() != 0

    def difference(self) -> torch.Tensor:
        return self.sparse() - self._dual.read()

    def sparse(self) -> torch.Tensor:
        return self._sparse.read()

    def _target(self, weight: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        return weight + self._dual.read()

    def _take(self, target: torch.Tensor, mask: torch.Tensor, weight: torch.Tensor, dual: Dual) -> torch.Tensor:
        self._sparse = self._stored(target * mask)
        after = self.mask()
        residual = target - self.sparse()  # on the support what rounding z has left
        self._dual = Stored.of(dual.of(residual, weight * ~after), self._dual_precision)
        return after

    def rescale_dual(self, factor: float) -> None:
        self._dual = Stored.of(self._dual.read() * factor, self._dual_precision)

    @property
    def nbytes(self) -> int:
        return self._sparse.nbytes + self._dual.nbytes

    def state(self) -> dict[str, Any]:
        return {"sparse": self._sparse.state(), "dual": self._dual.state()}

    def restore(self, state: dict[str, Any]) -> None:
        self._sparse.take(**state["sparse"])
        self._dual.take(**state["dual"])


def upgraded(state: dict[str, Any], shape_OI: torch.Size) -> dict[str, Any]:
    """What `State.state` gave in any version, for a whole weight of this shape, as it is now."""
    return state | {"bits": by_rows(state["bits"], shape_OI)} if "bits" in state else state


def start_state(
    weight_OI: torch.Tensor,
    selector: Selector,
    precision: Precision,
    support_OI: torch.Tensor | None = None,
    ranks: Ranks = ONE,
) -> State:
    """The state of a weight's rows at the start of a run, as `precision` keeps it.

    `support_OI`: None for magnitude's. `ranks`: that hold rows of the weight.
    """
    if precision.dual is None:
        return MergedState(weight_OI, selector, precision.state, support_OI)
    return SeparateState(weight_OI, selector, precision.state, precision.dual, support_OI, ranks)
