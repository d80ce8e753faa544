import math

import pytest

from elsa.admm.penalty import Auto, Constant, Cosine, Exponential, Linear
from elsa.errors import UserError


@pytest.mark.parametrize(
    ("penalty", "values"),
    [
        (Constant(value=0.3), (0.3, 0.3, 0.3)),
        (Linear(start=0.0, end=0.4), (0.0, 0.2, 0.4)),
        (Cosine(start=0.0, end=0.4), (0.0, 0.2, 0.4)),
        (Exponential(start=0.01, end=1.0), (0.01, 0.1, 1.0)),
    ],
)
def test_schedules_pass_through_start_middle_and_end(penalty, values):
    assert [penalty.at(progress) for progress in (0.0, 0.5, 1.0)] == pytest.approx(values)


def test_cosine_starts_flat():
    penalty = Cosine(start=0.0, end=1.0)
    assert penalty.at(0.1) == pytest.approx(0.0245, abs=1e-4)


@pytest.mark.parametrize("make", [lambda: Constant(value=0.0), lambda: Linear(start=-1.0, end=1.0)])
def test_useless_penalties_are_refused(make):
    with pytest.raises(UserError):
        make()


def test_exponential_cannot_start_at_zero():
    with pytest.raises(UserError, match=r"start=0\.0: .*1e-4"):
        Exponential(start=0.0, end=1.0)


def test_the_shares_of_auto_multiply_to_its_contraction_at_any_number_of_steps():
    for steps in (10, 1000):
        shares = [Auto(contraction=8.0).share(step, steps) for step in range(1, steps + 1)]
        assert shares == sorted(shares)
        assert sum(math.log1p(-share) for share in shares) == pytest.approx(-8.0, rel=0.2 if steps == 10 else 2e-3)


def test_auto_wants_a_contraction():
    with pytest.raises(UserError, match=r"contraction=0\.0: positive"):
        Auto(contraction=0.0)
