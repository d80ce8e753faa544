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


AUTO = Auto(start=0.001, final_energy=1e-4, gone_at=0.5, gain=0.5, largest_change=2.0)


def test_auto_plans_a_linear_fall_of_the_distance_that_ends_before_the_run():
    assert AUTO.planned(0.0, 0.25) == 0.25
    assert AUTO.planned(0.25, 0.25) == pytest.approx(0.25 / 4)
    assert AUTO.planned(0.5, 0.25) == AUTO.planned(1.0, 0.25) == pytest.approx(1e-4)


def test_auto_raises_the_penalty_when_too_much_energy_is_left_and_lowers_it_when_too_little():
    planned = AUTO.planned(0.25, 0.25)
    assert AUTO.following(0.1, 0.25, planned, 0.25) == pytest.approx(0.1)
    assert AUTO.following(0.1, 0.25, 1.44 * planned, 0.25) == pytest.approx(0.12)
    assert AUTO.following(0.1, 0.25, 100 * planned, 0.25) == pytest.approx(0.2)
    assert AUTO.following(0.1, 0.25, 0.0, 0.25) == pytest.approx(0.05)
