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


AUTO = Auto(start=0.001, final_energy=0.01, gone_at=1.0, gain=1.0, largest_change=2.0)


def test_auto_leaves_a_penalty_alone_that_gets_there_in_time():
    # 0.16 to 0.01 in the four intervals that are left is a half in each, and the last one halved it
    assert AUTO.following(0.1, 0.2, 0.2, 0.16, 0.32) == pytest.approx(0.1)
    assert AUTO.following(0.1, 0.2, 0.2, 0.009, 0.32) == 0.1  # it is there


def test_auto_raises_the_penalty_when_the_energy_falls_too_slowly_and_lowers_it_when_too_fast():
    assert AUTO.following(0.1, 0.2, 0.2, 0.16, 0.32 / 2 ** (1 / 3)) == pytest.approx(0.15)
    assert AUTO.following(0.1, 0.2, 0.2, 0.16, 0.16) == AUTO.following(0.1, 0.2, 0.2, 0.16, 0.1) == pytest.approx(0.2)
    assert AUTO.following(0.1, 0.2, 0.2, 0.16, 1.0) == pytest.approx(0.05)


def test_auto_steers_on_past_the_time_when_the_energy_was_to_be_gone():
    early = Auto(start=0.001, final_energy=0.01, gone_at=0.5, gain=1.0, largest_change=2.0)
    assert early.following(0.1, 0.9, 0.1, 0.02, 0.04) == pytest.approx(0.1)
