import itertools

import pytest
import torch

from elsa.errors import UserError
from elsa.sparsity.pattern import Pattern
from elsa.sparsity.projection import project


def unstructured(ratio):
    return Pattern(pattern="unstructured", ratio=ratio)


def semi(pattern):
    return Pattern(pattern=pattern, ratio=None)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.29, 0.5, 0.7, 0.9, 0.99])
def test_unstructured_counts_are_exact_even_if_all_scores_tie(ratio):
    mask = unstructured(ratio).mask(torch.ones(20, 30))
    assert int((~mask).sum()) == round(ratio * 600)


@pytest.mark.parametrize(("ratio", "entries", "zeros"), [(0.7, 8, 6), (0.9, 7, 6), (0.3, 11, 3), (0.6, 7, 4)])
def test_a_count_between_two_whole_numbers_is_rounded_to_the_nearest(ratio, entries, zeros):
    score = torch.rand(1, entries, generator=torch.Generator().manual_seed(0))
    assert unstructured(ratio).zeros(entries) == zeros
    assert int((~unstructured(ratio).mask(score)).sum()) == zeros
    assert (~unstructured(ratio).mask_rows(score.expand(3, -1))).sum(1).tolist() == [zeros] * 3


def test_rows_lose_the_same_number():
    mask = unstructured(0.7).mask_rows(torch.rand(8, 20))
    assert (~mask).sum(1).tolist() == [14] * 8


@pytest.mark.parametrize(("pattern", "keep", "group"), [("2:4", 2, 4), ("4:8", 4, 8), ("1:4", 1, 4), ("3:16", 3, 16)])
def test_n_of_m_keeps_n_in_every_group(pattern, keep, group):
    mask = semi(pattern).mask(torch.rand(6, 48))
    assert mask.view(-1, group).sum(1).unique().tolist() == [keep]
    assert semi(pattern).sparsity == pytest.approx(1 - keep / group)


@pytest.mark.parametrize(
    ("pattern", "ratio", "message"),
    [
        ("2:4", 0.7, r"ratio=0\.7: pattern 2:4 means 0\.5"),
        ("unstructured", 1.0, r"ratio=1\.0: .*\[0, 1\)"),
        ("unstructured", -0.1, "ratio=-0.1"),
        ("unstructured", None, "ratio=null"),
        ("4:2", None, "pattern=4:2"),
        ("two:four", None, "pattern=two:four: known"),
    ],
)
def test_impossible_patterns_are_refused_with_key_and_value(pattern, ratio, message):
    with pytest.raises(UserError, match=message):
        Pattern(pattern=pattern, ratio=ratio)


def test_inputs_that_are_no_multiple_of_the_group_are_refused():
    with pytest.raises(ValueError, match="no multiple"):
        semi("2:4").mask(torch.rand(2, 6))


@pytest.mark.parametrize("weighted", [False, True])
def test_project_is_the_argmin_over_all_supports(weighted):
    generator = torch.Generator().manual_seed(3)
    target = torch.randn(2, 4, generator=generator)
    importance = torch.rand(2, 4, generator=generator) if weighted else None
    cost = (importance if weighted else torch.ones(2, 4)).flatten()
    supports = itertools.combinations(range(8), 4)

    def loss(support):
        return sum(float(cost[i] * target.flatten()[i] ** 2) for i in range(8) if i not in support)

    best = min(supports, key=loss)
    expected = torch.tensor([target.flatten()[i] if i in best else 0.0 for i in range(8)]).view(2, 4)
    assert torch.equal(project(target, unstructured(0.5), importance), expected)


def test_a_ramp_rises_fast_at_first_and_ends_at_the_pattern():
    pattern = Pattern(pattern="unstructured", ratio=0.8)
    levels = [pattern.ramped(progress).sparsity for progress in (0, 0.5, 1, 2)]
    assert levels == pytest.approx([0, 0.8 * 7 / 8, 0.8, 0.8])
    two_of_four = Pattern(pattern="2:4", ratio=None)
    assert two_of_four.ramped(0.1) is two_of_four
