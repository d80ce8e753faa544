"""The Gram matrix and what is made of it, against their definitions."""

import torch

from elsa.layerwise.statistics import GramStatistics, damped, normalised, upper_inverse_factor


def gram_with_a_dead_input():
    inputs = torch.randn(50, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 2, 3, 4, 5, 0])
    gram = GramStatistics().init_statistics(torch.zeros(4, 6))
    for part in inputs.split(20):
        GramStatistics().update_statistics(gram, part)
    torch.testing.assert_close(gram, inputs.t() @ inputs)
    return gram


def test_damping_adds_its_share_of_the_mean_diagonal_after_dead_inputs_count_as_one():
    gram = gram_with_a_dead_input()
    alive = gram.clone()
    alive[5, 5] = 1
    expected = alive + 0.1 * sum(alive[i, i] for i in range(6)) / 6 * torch.eye(6)
    torch.testing.assert_close(damped(gram, 0.1), expected)
    assert gram[5, 5] == 0, "the statistic itself stays"


def test_inputs_are_scaled_to_unit_norm_and_dead_ones_left_alone():
    gram = gram_with_a_dead_input()
    scaled, norm = normalised(gram)
    assert norm[5] == 1
    torch.testing.assert_close(scaled.diagonal(), torch.tensor([1.0, 1, 1, 1, 1, 0]))
    torch.testing.assert_close(scaled * norm * norm[:, None], gram)


def test_the_inverse_factor_is_upper_triangular_and_its_square_the_inverse():
    gram = damped(gram_with_a_dead_input(), 0.1)
    factor = upper_inverse_factor(gram)
    assert torch.equal(factor, factor.triu())
    torch.testing.assert_close(factor.t() @ factor, torch.linalg.inv(gram), rtol=1e-4, atol=1e-6)
