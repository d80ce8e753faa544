import pytest

from elsa.admm.penalty import Constant, Cosine, Exponential, Linear
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
