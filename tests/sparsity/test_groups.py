import itertools

import pytest
import torch

from elsa.errors import UserError
from elsa.method.alps import Alps
from elsa.method.finetuned import FineTuned
from elsa.method.magnitude import Magnitude
from elsa.method.swaps import Swaps
from elsa.method.wanda import Wanda
from elsa.sparsity.pattern import Pattern
from elsa.sparsity.projection import project


def semi(pattern):
    return Pattern(pattern=pattern, ratio=None)


def random_score(*shape, seed=0, dtype=torch.float32):
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).square().to(dtype)


def regular_masks(keep, group):
    """All masks of a block with `keep` in each row and column, from all that there are of its rows, row by row."""
    found = [()]
    for _ in range(group):
        rows = [row for row in itertools.product((0, 1), repeat=group) if sum(row) == keep]
        found = [(*mask, row) for mask in found for row in rows]
        found = [mask for mask in found if max(map(sum, zip(*mask, strict=True))) <= keep]
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize(
    ("pattern", "keep", "group", "masks"), [("2:4", 2, 4, 90), ("1:4", 1, 4, 24), ("2:3", 2, 3, 6)]
)
def test_the_best_transposable_mask_of_every_block_is_found(pattern, keep, group, masks):
    every = regular_masks(keep, group)
    assert len(every) == masks
    score = random_score(2 * group, 5 * group)
    mask = semi(f"transposable_{pattern}").mask(score)
    for row, column in itertools.product(range(2), range(5)):
        place = (slice(row * group, (row + 1) * group), slice(column * group, (column + 1) * group))
        assert mask[place].sum(0).tolist() == mask[place].sum(1).tolist() == [keep] * group
        best = (every * score[place].double()).sum((1, 2)).max()
        assert float(score[place][mask[place]].double().sum()) == pytest.approx(float(best), rel=1e-6)


@pytest.mark.parametrize(("pattern", "keep", "group"), [("4:8", 4, 8), ("2:8", 2, 8), ("2:4", 2, 4)])
def test_the_best_pairs_of_every_group_are_kept(pattern, keep, group):
    score = random_score(6, 3 * group)
    mask = semi(f"paired_{pattern}").mask(score).view(-1, group)
    assert torch.equal(mask[:, ::2], mask[:, 1::2])
    assert mask.sum(1).unique().tolist() == [keep]
    for its_score, its_mask in zip(score.view(-1, group), mask, strict=True):
        sums = its_score.view(-1, 2).sum(1)
        best = max(float(sums[list(kept)].sum()) for kept in itertools.combinations(range(group // 2), keep // 2))
        assert float(its_score[its_mask].sum()) == pytest.approx(best, rel=1e-6)


@pytest.mark.parametrize("pattern", ["paired_4:8", "transposable_2:4"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_counts_are_exact_even_if_all_scores_tie(pattern, dtype):
    for score in (torch.zeros(8, 16, dtype=dtype), torch.ones(8, 16, dtype=dtype), random_score(8, 16, dtype=dtype)):
        mask = semi(pattern).mask(score)
        assert int(mask.sum()) == 64 == 128 - semi(pattern).zeros(128)
        assert semi(pattern).kept(mask.float()) == (semi(pattern).kept(mask.float())[0],) * 2
        assert torch.equal(semi(pattern).mask_rows(score), mask)


def test_a_weight_that_misses_the_pattern_is_seen_to():
    weight = torch.zeros(8, 8)
    weight[0, [0, 2, 4]] = 1.0
    assert semi("paired_4:8").kept(weight) == (4, 6)
    assert semi("2:4").kept(weight) == (2, 2)
    tall = torch.zeros(8, 8)
    tall[:3, 0] = 1.0
    assert semi("2:4").kept(tall) == (2, 1)
    assert semi("transposable_2:4").kept(tall) == (2, 3)


@pytest.mark.parametrize("method", [Magnitude(), Wanda()], ids=["magnitude", "wanda"])
def test_scores_that_are_added_up_are_costs(method):
    """One large weight beside a small one costs more than two of middle size, though their sum is smaller."""
    weight = torch.tensor([[1.0, 0.1, 0.6, 0.6]])
    prepared = torch.ones(4) if isinstance(method, Wanda) else None
    assert method.prune(weight, prepared, semi("paired_2:4")).tolist() == [[1.0, pytest.approx(0.1), 0.0, 0.0]]


def test_the_projection_onto_a_transposable_pattern_is_the_closest_matrix():
    target = torch.randn(4, 4, generator=torch.Generator().manual_seed(5))
    importance = random_score(4, 4, seed=6)
    found = project(target, semi("transposable_2:4"), importance)

    def distance(sparse):
        return float((importance * (sparse - target).square()).sum())

    assert distance(found) == pytest.approx(min(distance(target * mask.float()) for mask in regular_masks(2, 4)))


@pytest.mark.parametrize(
    ("pattern", "line"),
    [
        ("paired_3:8", "pairs are kept whole"),
        ("paired_2:5", "pairs are kept whole"),
        ("transposable_4:8", "groups up to 4, whose masks can all be tried"),
        ("transposable_5:4", "fewer than the group"),
        ("paired 4:8", "known: unstructured.*paired_4:8"),
        ("pared_4:8", "known: unstructured.*paired_4:8"),
    ],
)
def test_impossible_patterns_are_refused(pattern, line):
    with pytest.raises(UserError, match=f"^pattern={pattern}: {line}|^pattern={pattern}: .*{line}"):
        semi(pattern)


def test_sizes_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="has 6 outputs, no multiple of 4"):
        semi("transposable_2:4").mask(torch.rand(6, 8))
    with pytest.raises(ValueError, match="has 12 inputs, no multiple of 8"):
        semi("paired_4:8").mask(torch.rand(6, 12))
    semi("2:4").mask(torch.rand(6, 8))


def test_methods_that_would_break_the_pattern_refuse_it():
    for pattern in ("paired_4:8", "transposable_2:4"):
        with pytest.raises(UserError, match=f"pattern={pattern}: method=wanda.swaps exchanges single weights"):
            Swaps().check_pattern(semi(pattern))
        with pytest.raises(UserError, match="exchanges single weights"):
            FineTuned(start=Swaps()).check_pattern(semi(pattern))
        with pytest.raises(UserError, match="match_reference"):
            Magnitude(match_reference=True).check_pattern(semi(pattern))
        Alps().check_pattern(semi(pattern))
    Swaps().check_pattern(semi("4:8"))
