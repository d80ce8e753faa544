import math

from elsa.admm.monitor import Monitor
from elsa.train.sparse import Distances

FIRST = Distances(residual=1.0, energy=0.5, rms=0.12)


def followed(rate, constant=True, points=20):
    """What is said about a run whose energy falls as exp(−rate · travel), by progress."""
    diagnosis, said = Monitor(FIRST, None, constant), {}
    for i in range(1, points + 1):
        progress = i / points
        energy = 0.5 * math.exp(-rate * (progress - progress**2 / 2))
        said[progress] = diagnosis.add(progress, FIRST._replace(energy=energy), None)
    return {progress: text for progress, text in said.items() if text}


def test_a_penalty_that_is_too_small_is_named_after_a_tenth_of_the_run():
    ((progress, text),) = followed(rate=2).items()
    assert progress == 0.1
    assert text.startswith("λ looks too small: 41% of the energy is off the support after 10% of the run, and at this")
    assert "18% will be at the end" in text
    assert "Try 14 times the penalty" in text


def test_a_ramp_is_given_half_the_run():
    assert list(followed(rate=2, constant=False)) == [0.5]


def test_a_planned_penalty_is_judged_at_the_end_alone():
    diagnosis = Monitor(FIRST, None, constant=False, planned=True)
    assert diagnosis.add(0.5, FIRST, None) is None
    assert diagnosis.at_the_end(0.38) == (
        "λ too small: the last projection removes 38% of the weights' energy. Try a larger penalty.contraction, or "
        "more steps"
    )


def test_a_penalty_that_pins_the_support_is_named():
    ((progress, text),) = followed(rate=100).items()
    assert progress == 0.1
    assert text.startswith("λ looks too large: after 10% of the run only 0.00%")


def test_a_run_that_fits_is_left_alone():
    assert followed(rate=14) == {}


def test_the_end_says_what_the_projection_removes():
    diagnosis = Monitor(FIRST, 0.2, True)
    assert diagnosis.at_the_end(0.0004).startswith("the weights have reached their support")
    assert diagnosis.at_the_end(0.004).startswith("the weights have nearly reached their support: 0.4%")
    assert diagnosis.at_the_end(0.38) == (
        "λ too small: the last projection removes 38% of the weights' energy. Try 19 times the penalty, a higher "
        "learning rate, more steps, or penalty=auto"
    )


def test_weights_that_the_optimiser_cannot_move_to_the_support_are_named_at_once():
    text = Monitor(FIRST, 0.03, constant=False).add(0.05, FIRST._replace(energy=0.49), 0.03)
    assert text == (
        "learning rate or steps too small: they move a weight by at most 0.03, and the weights off the support are at "
        "0.12 (root mean square); 49% of the energy is there, and no penalty but auto brings it back"
    )
    assert Monitor(FIRST, 0.3, constant=False).add(0.05, FIRST, 0.3) is None
    harmless = Distances(residual=0.1, energy=0.005, rms=0.01)
    assert Monitor(FIRST, 0.3, constant=False).add(0.9, harmless, 0.001) is None


def test_the_end_does_not_blame_the_penalty_for_a_distance_that_was_out_of_reach():
    text = Monitor(FIRST, 0.03, constant=True).at_the_end(0.49)
    assert text.startswith("learning rate or steps too small: they move a weight by at most 0.03")
    assert text.endswith("the last projection removes 49% of the weights' energy, and would with any penalty but auto")
