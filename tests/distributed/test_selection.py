"""Borders mark exactly what `keep_largest` marks, on one process and over the rows of several."""

import pytest
import torch

from elsa.distributed.ranks import ONE
from elsa.errors import UserError
from elsa.sparsity.allocation import allocate
from elsa.sparsity.selection import borders, keep_largest
from tests.ranks import on_ranks


def scores(case, generator):
    """Of three weights: with ties, with signs, with zeros of both, infinite ones, and in bf16."""
    drawn = {name: torch.randn(rows, 13, generator=generator) for name, rows in {"a": 7, "b": 1, "c": 40}.items()}
    kinds = [
        lambda score: score.square(),
        lambda score: score.square().round(decimals=1),
        lambda score: score.round(),
        lambda score: torch.where(score > 1, torch.inf, score * 1e-38),
        lambda score: score.square().bfloat16(),
        lambda score: torch.zeros_like(score),
    ]
    return {name: kinds[case % len(kinds)](score) for name, score in drawn.items()}


def counts(case, drawn, generator):
    shares = [0.0, 1.0, *torch.rand(4, generator=generator).tolist()]
    return {name: round(shares[(case + n) % 6] * score.numel()) for n, (name, score) in enumerate(drawn.items())}


def _differences(ranks, cases):
    """How often this rank's rows are marked otherwise than in the whole weight."""
    generator, wrong = torch.Generator().manual_seed(0), 0
    for case in range(cases):
        drawn = scores(case, generator)
        keep = counts(case, drawn, generator)
        own = {}
        for name, score in drawn.items():
            parts = score.chunk(ranks.size)
            own[name] = parts[ranks.rank] if ranks.rank < len(parts) else score[:0]
        found = borders(own.__getitem__, keep, ranks)
        for name, score in drawn.items():
            whole = keep_largest(score, keep[name]).chunk(ranks.size)
            expected = whole[ranks.rank] if ranks.rank < len(whole) else score[:0].bool()
            wrong += not torch.equal(found[name].mask(own[name]), expected)
    return wrong


def test_on_one_process():
    assert _differences(ONE, 120) == 0


@pytest.mark.parametrize("size", [2, 3])
def test_over_rows_of_several_ranks(size):
    assert on_ranks(size, _differences, 60) == [0] * size


def test_a_transposed_score_breaks_ties_in_the_order_of_its_rows():
    score = torch.ones(5, 4).t()
    found = borders(lambda name: score, {"a": 7}, ONE)
    assert torch.equal(found["a"].mask(score), keep_largest(score, 7))


def test_nan_is_refused():
    with pytest.raises(UserError, match="a score is NaN"):
        borders(lambda name: torch.tensor([[1.0, -torch.nan]]), {"a": 1}, ONE)


def _budget(ranks):
    drawn = scores(0, torch.Generator().manual_seed(3))
    own = {
        n: s.chunk(ranks.size)[ranks.rank] if ranks.rank < len(s.chunk(ranks.size)) else s[:0] for n, s in drawn.items()
    }
    return allocate(own.__getitem__, own, 0.7, ranks), allocate(drawn.__getitem__, drawn, 0.7)


def test_a_common_budget_is_placed_as_on_one():
    for found, expected in on_ranks(3, _budget):
        assert found == expected
