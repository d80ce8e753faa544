"""The Gram matrix of a layer's inputs and its inverse: the surrogate that second-order layer-wise methods work on."""

import torch

FEWEST_TOKENS = 32


class GramStatistics:
    """The Gram matrix of a layer's inputs, as the driver collects it."""

    def init_statistics(self, weight_OI: torch.Tensor) -> torch.Tensor:
        """fp32 zeros [I, I]."""
        inputs = weight_OI.shape[1]
        return torch.zeros(inputs, inputs, device=weight_OI.device)

    def update_statistics(self, statistics: torch.Tensor, inputs_TI: torch.Tensor) -> None:
        """gram += XᵀX, in place: the only copy there is."""
        statistics.addmm_(inputs_TI.t(), inputs_TI)

    def fewest_tokens(self, inputs: int) -> int:
        """As many as there are inputs: with fewer the matrix has no full rank, and damping decides."""
        return inputs


class EnergyStatistics:
    """The sums of squares of a layer's inputs, as the driver collects them."""

    def init_statistics(self, weight_OI: torch.Tensor) -> torch.Tensor:
        """fp32 zeros [I]."""
        return torch.zeros(weight_OI.shape[1], device=weight_OI.device)

    def update_statistics(self, statistics: torch.Tensor, inputs_TI: torch.Tensor) -> None:
        """energy += Σ x², in place."""
        statistics += inputs_TI.square().sum(0)

    def fewest_tokens(self, inputs: int) -> int:
        """So many that the mean of squares of T normal inputs, with its relative error of √(2/T), is within 25 %."""
        return FEWEST_TOKENS


def damped(gram_II: torch.Tensor, damping: float) -> torch.Tensor:
    """G + damping · mean(diag G) · identity, with 1 on the diagonal of inputs that were never active."""
    result = gram_II.clone()
    diagonal = result.diagonal()
    diagonal[diagonal == 0] = 1
    diagonal += damping * diagonal.mean()
    return result


def upper_inverse_factor(gram_II: torch.Tensor) -> torch.Tensor:
    """The upper triangular U with UᵀU = G⁻¹ (SparseGPT, arXiv:2301.00774, Sec. 3.3).

    Raises `torch.linalg.LinAlgError` if G is not positive definite.
    """
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram_II))
    factor: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    return factor


def normalised(gram_II: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """G scaled to unit diagonal, and the norms of the inputs: the preconditioning of ALPS and L-ADMM."""
    norm = gram_II.diagonal().sqrt()
    norm = torch.where(norm == 0, 1, norm)
    return gram_II / norm / norm[:, None], norm
