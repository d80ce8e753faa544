"""The share of n-grams that were there before."""

import pytest

from elsa.data.repetition import repetition_share


@pytest.mark.parametrize(
    ("ids", "share"),
    [
        ([1, 2, 3, 4, 5], 0.0),  # two, both new
        ([7] * 8, 0.8),  # five, one of them distinct
        ([1, 2, 3, 4, 1, 2, 3, 4], 0.2),  # five, of which the last is the first
        ([1, 2, 3], 0.0),  # none at all
        ([], 0.0),
    ],
)
def test_repetition_is_the_share_of_n_grams_that_were_there_before(ids, share):
    assert repetition_share(ids) == pytest.approx(share)
    assert repetition_share([1, 2, 1, 2], 2) == pytest.approx(1 / 3)
