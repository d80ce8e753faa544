"""L-ADMM on one weight against its algorithm written out."""

import dataclasses

import pytest
import torch

from elsa.method.l_admm import LAdmm
from elsa.sparsity.pattern import Pattern

PATTERNS = {"70 %": Pattern(pattern="unstructured", ratio=0.7), "2:4": Pattern(pattern="2:4", ratio=None)}
METHOD = LAdmm(calibration_windows=1, damping=0.3, iterations=9, mask_iterations=6)


def largest(score, keep):
    mask = torch.zeros(score.numel(), dtype=torch.bool)
    mask[score.flatten().argsort(descending=True, stable=True)[:keep]] = True
    return mask.view_as(score)


def naive(method, weight, gram, pattern):
    """Alg. 1 and 2 of arXiv:2401.02938 on inputs of unit norm, in fp64; input 0 is dead."""
    weight, gram = weight.double(), gram.double()
    norm = gram.diagonal().sqrt()
    norm[0] = 1
    scaled = gram / norm / norm[:, None]
    scaled = scaled + method.damping * scaled.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)
    dense = weight * norm
    dense[:, 0] = 0
    x, u = dense.clone(), torch.zeros_like(dense)
    for step in range(method.iterations):
        candidate = x + u
        if step < method.mask_iterations:
            share = 1 - (1 - (step + 1) / method.mask_iterations) ** 3  # of the final zeros
            if pattern.group or method.match_reference:
                mask = pattern.mask(candidate.square())
            else:
                zeros = round(pattern.zeros(candidate.numel()) * share)
                mask = largest(candidate.square(), candidate.numel() - zeros)
        z = candidate * mask
        u = candidate - z
        x = torch.linalg.solve(scaled + torch.eye(len(gram), dtype=torch.float64), (dense @ scaled + z - u).t()).t()
    return ((x + u) * mask / norm).float()


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize(
    "change", [{}, {"match_reference": True}, {"mask_iterations": 9}, {"mask_iterations": 2}, {"damping": 2.0}], ids=str
)
def test_a_weight_is_pruned_by_admm_with_a_gradual_mask_that_then_stays(pattern, change):
    method, generator = dataclasses.replace(METHOD, **change), torch.Generator().manual_seed(0)
    weight = torch.randn(12, 16, generator=generator)
    inputs = torch.randn(40, 16, generator=generator) @ torch.randn(16, 16, generator=generator)
    inputs[:, 0] = 0
    gram = inputs.t() @ inputs
    found = method.prune(weight, method.prepare(gram), pattern)
    expected = naive(method, weight, gram, pattern)
    assert torch.equal(found != 0, expected != 0)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
