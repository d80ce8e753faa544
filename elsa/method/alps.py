"""ALPS: ADMM on the layer problem, then conjugate gradients on its support (arXiv:2406.07831)."""

from dataclasses import dataclass

import torch

from elsa.errors import require
from elsa.layerwise.statistics import damped, normalised
from elsa.method.layerwise import GramMethod
from elsa.sparsity.pattern import Pattern


@dataclass(frozen=True)
class Spectrum:
    """A damped Gram matrix of unit diagonal with its eigendecomposition, which serves every ρ and every layer."""

    gram_II: torch.Tensor
    norm_I: torch.Tensor
    dead_I: torch.Tensor
    eigenvalues_I: torch.Tensor
    eigenvectors_II: torch.Tensor

    def inverse(self, rho: float) -> torch.Tensor:
        """(G + ρ · identity)⁻¹, computed in fp64."""
        scaled = self.eigenvectors_II / (self.eigenvalues_I + rho)
        return (scaled @ self.eigenvectors_II.t()).float()


@dataclass(frozen=True, kw_only=True)
class Alps(GramMethod):
    """minimise ‖XW − XD‖² over D in the pattern: ADMM with a growing penalty ρ (Alg. 1), then PCG (Alg. 2).

    arXiv:2406.07831. ρ grows by 1.3, 1.2 or 1.1 as more than 10 %, 0.5 % or none of the kept entries changed; the loop
    ends when the support stands still. As in the reference code, a support that does not move at first means that ρ is
    too large: it starts again with ρ / 5. No difference to the reference but exact counts with ties.

    Args:
        damping: share of the mean diagonal that is added to the Gram matrix.
        rho: ρ at the start.
        iterations: of ADMM, at most.
        update_interval: iterations between two looks at the support, after which ρ grows.
        refine_iterations: of the conjugate gradients on the final support; 0 for none.
        refine_tolerance: residual of a row, over its right-hand side, below which they end.
    """

    damping: float = 0.01
    rho: float = 0.1
    iterations: int = 300
    update_interval: int = 3
    refine_iterations: int = 10
    refine_tolerance: float = 1e-4

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("damping", "rho", "refine_tolerance"):
            require(getattr(self, name) > 0, name, getattr(self, name), "positive")
        for name in ("iterations", "update_interval"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        require(self.refine_iterations >= 0, "refine_iterations", self.refine_iterations, "at least 0")

    def prepare(self, statistics: torch.Tensor) -> Spectrum:
        gram, norm = normalised(damped(statistics, self.damping))
        # once for all ρ, whose (G + ρ)⁻¹ is then a product; fp64, for small eigenvalues count most in an inverse
        return Spectrum(gram, norm, statistics.diagonal() == 0, *torch.linalg.eigh(gram.double()))

    def prune(self, weight_OI: torch.Tensor, prepared: Spectrum, pattern: Pattern) -> torch.Tensor:
        target = weight_OI.masked_fill(prepared.dead_I, 0) * prepared.norm_I
        sparse = self._admm(target, prepared, pattern)
        refined = conjugate_gradients(
            prepared.gram_II, target @ prepared.gram_II, sparse, self.refine_iterations, self.refine_tolerance
        )
        return refined / prepared.norm_I

    def _admm(self, target_OI: torch.Tensor, prepared: Spectrum, pattern: Pattern) -> torch.Tensor:
        right = target_OI @ prepared.gram_II
        kept_entries = target_OI.numel() - pattern.zeros(target_OI.numel())
        start = target_OI * pattern.mask(target_OI.square())
        sparse, dual, rho, moved = start, torch.zeros_like(target_OI), self.rho, False
        inverse, support = prepared.inverse(rho), start != 0
        for step in range(1, self.iterations + 1):
            dense = (right - dual + rho * sparse) @ inverse
            candidate = dense + dual / rho
            kept = pattern.mask(candidate.square())
            sparse = candidate * kept
            # ALPS's dual is y, not the scaled u = y / ρ
            dual = dual + rho * (dense - sparse)
            if step % self.update_interval:
                continue
            changed = int((kept != support).sum())
            support = kept
            if changed == 0 and moved:
                break
            growth = _growth(changed / kept_entries)
            if growth is not None and (moved or changed > 0.005 * kept_entries):
                moved, rho = True, min(rho * growth, 1e6)
            else:
                # the support has not moved yet: ρ held it from the start
                sparse, dual, rho = start, torch.zeros_like(dual), rho / 5
            inverse = prepared.inverse(rho)
        return sparse


def _growth(changed: float) -> float | None:
    """By what ρ grows for this share of changed entries (Sec. 4.1); None if nothing changed."""
    if changed == 0:
        return None
    # The paper's Sec. 4.1 has these three rates and two bounds; the reference code the same.
    return 1.3 if changed > 0.1 else 1.2 if changed > 0.005 else 1.1


def conjugate_gradients(
    gram_II: torch.Tensor, right_OI: torch.Tensor, start_OI: torch.Tensor, iterations: int, tolerance: float
) -> torch.Tensor:
    """Solve D·G = R row by row on the support of `start_OI`, from there. G has unit diagonal: Jacobi-preconditioned.

    Ends after `iterations`, or once every row's residual is below `tolerance` of its right-hand side.
    """
    support = start_OI != 0
    solution = start_OI
    residual = (right_OI - solution @ gram_II) * support
    direction, energy = residual, residual.square().sum(1, keepdim=True)
    goal = (tolerance * (right_OI * support).norm(dim=1, keepdim=True)).square()
    for _ in range(iterations):
        if bool((energy <= goal).all()):
            break
        image = (direction @ gram_II) * support
        length = energy / (direction * image).sum(1, keepdim=True).clamp_min(torch.finfo(energy.dtype).tiny)
        solution = solution + length * direction
        residual = residual - length * image
        previous, energy = energy, residual.square().sum(1, keepdim=True)
        direction = residual + energy / previous.clamp_min(torch.finfo(energy.dtype).tiny) * direction
    return solution
