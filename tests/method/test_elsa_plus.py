"""What Elsa+ adds, one knob at a time."""

import dataclasses
import itertools

import pytest
import torch

from elsa.admm.engine import Admm
from elsa.errors import UserError
from elsa.method.elsa_plus import ElsaPlus
from elsa.method.magnitude import Magnitude
from elsa.method.wanda import Wanda
from elsa.model.weights import prunable_weights
from elsa.sparsity.pattern import Pattern
from elsa.train.gradual import GradualPruning
from tests.conftest import random_model
from tests.method.methods import METHODS, TRAINING
from tests.method.test_contract import task

PATTERN = Pattern(pattern="unstructured", ratio=0.7)
NEUTRAL = ElsaPlus(
    interval=2,
    projection="objective_aware",
    start=None,
    start_weights=False,
    retention=1.0,
    dual_step=1.0,
    dual_from=0.0,
    dual_limit=None,
    polish_fraction=0.0,
    ramp_fraction=0.0,
    ramp_from=0.0,
    hard=False,
)


def pruned(method, windows, **training):
    model = random_model("llama")
    given, logged = task(windows, PATTERN)
    given = dataclasses.replace(given, training=dataclasses.replace(TRAINING, **training))
    facts = method.apply(model, given)
    return model, facts, logged


def test_with_neutral_knobs_it_is_elsa(windows):
    ours, _, _ = pruned(NEUTRAL, windows)
    elsa, _, _ = pruned(METHODS["elsa"], windows)
    assert all(torch.equal(value, elsa.state_dict()[key]) for key, value in ours.state_dict().items())


def test_the_first_support_is_that_of_init_and_the_weights_stay_dense_unless_asked(windows, monkeypatch):
    seen = {}

    class SpyError(Exception):
        pass

    def spy(projection, penalty, precision, phases, training, supports, probe_every):
        values = {name: weight.value_OI.clone() for name, weight in projection.weights.items()}
        seen.update(supports=supports, weights=values)
        raise SpyError

    monkeypatch.setattr("elsa.method.elsa_plus.Admm", spy)
    start = random_model("llama")
    Wanda(calibration_windows=8).apply(start, task(windows, PATTERN)[0])
    for keeps_weights in (False, True):
        method = dataclasses.replace(NEUTRAL, start=Wanda(calibration_windows=8), start_weights=keeps_weights)
        with pytest.raises(SpyError):
            pruned(method, windows)
        for name, weight in prunable_weights(start).items():
            assert torch.equal(seen["supports"][name], weight.value_OI != 0)
            dense = prunable_weights(random_model("llama"))[name].value_OI
            assert torch.equal(seen["weights"][name], weight.value_OI if keeps_weights else dense)


def test_polishing_trains_within_the_support(windows):
    polishing = dataclasses.replace(NEUTRAL, polish_fraction=0.5)
    model, facts, logged = pruned(polishing, windows)
    plain, _, _ = pruned(dataclasses.replace(NEUTRAL, interval=1), windows, steps=3, decay_fraction=0.0)
    assert [step for step, _ in logged] == [2, 4, 6]
    assert "penalty" not in logged[-1][1]
    assert facts["before_projection"]["off_support_energy"] > 0.1
    for name, weight in prunable_weights(model).items():
        assert int((weight.value_OI == 0).sum()) == PATTERN.zeros(weight.value_OI.numel())
        assert not torch.equal(weight.value_OI, prunable_weights(plain)[name].value_OI)


@pytest.mark.parametrize("polish", [0.0, 0.5])
def test_a_global_budget_is_met_in_all_and_spread_unevenly(windows, polish):
    model = random_model("llama")
    given, _ = task(windows, dataclasses.replace(PATTERN, allocation="global"))
    dataclasses.replace(NEUTRAL, polish_fraction=polish).apply(model, given)
    weights = prunable_weights(model).values()
    zeros = [int((weight.value_OI == 0).sum()) for weight in weights]
    numel = [weight.value_OI.numel() for weight in weights]
    assert sum(zeros) == PATTERN.zeros(sum(numel))
    shares = [its_zeros / its_numel for its_zeros, its_numel in zip(zeros, numel, strict=True)]
    assert max(shares) - min(shares) > 0.1
    assert max(shares) <= 1 - 0.1 * 0.3 + 1e-6


def test_a_ramp_prunes_gradually_and_ends_at_the_pattern(windows):
    gradual = dataclasses.replace(NEUTRAL, interval=1, ramp_fraction=0.5)
    model, _, logged = pruned(gradual, windows)
    off = [metrics["off_support_energy"] for _, metrics in logged]
    _, _, at_once = pruned(dataclasses.replace(NEUTRAL, interval=1), windows)
    assert off[0] < at_once[0][1]["off_support_energy"] / 2
    assert off[0] < off[1]
    for weight in prunable_weights(model).values():
        assert int((weight.value_OI == 0).sum()) == PATTERN.zeros(weight.value_OI.numel())


@pytest.mark.parametrize("polish", [0.0, 0.4])
def test_hard_projection_prunes_the_weights_themselves_step_by_step(windows, monkeypatch, polish):
    zeros = []
    after_step = GradualPruning.after_step

    def spy(self, step):
        metrics = after_step(self, step)
        zeros.append([weight.value_OI == 0 for weight in self._weights.values()])
        return metrics

    monkeypatch.setattr(GradualPruning, "after_step", spy)
    hard = dataclasses.replace(
        NEUTRAL, interval=2, retention=0.0, ramp_fraction=0.6, polish_fraction=polish, hard=True, projection="euclidean"
    )
    model, facts, logged = pruned(hard, windows)
    counts = [sum(int(pruned.sum()) for pruned in step) for step in zeros]
    # updates after steps 2, 4 and 6; the ramp ends at 4
    assert counts[0] < counts[1] == counts[2] < counts[3] == counts[5]
    for before, after in itertools.pairwise(zeros):  # what is pruned stays pruned
        assert all((old & new).equal(old) for old, new in zip(before, after, strict=True))
    assert 0 < logged[1][1]["off_support_energy"] < 0.2  # what this update removed
    assert facts["before_projection"]["off_support_energy"] == 0
    for weight in prunable_weights(model).values():
        assert int((weight.value_OI == 0).sum()) == PATTERN.zeros(weight.value_OI.numel())


def test_hard_projection_has_no_dual():
    with pytest.raises(UserError, match=r"^retention=1.0: 0 with hard=true"):
        dataclasses.replace(NEUTRAL, hard=True)


@pytest.mark.parametrize("knob", [{"dual_step": 0.5}, {"dual_from": 0.5}, {"dual_limit": 1.0}])
def test_what_shapes_a_dual_needs_one(knob):
    with pytest.raises(UserError, match=r"^retention=0.0: above 0: dual_step, dual_from and dual_limit shape a dual"):
        dataclasses.replace(NEUTRAL, retention=0.0, **knob)


def test_a_limit_of_the_dual_needs_steps_that_have_a_bound():
    limited = dataclasses.replace(NEUTRAL, projection="euclidean", dual_limit=1.0)
    with pytest.raises(UserError, match=r"^dual_limit=1.0: null: steps of training.optimizer=sgd have no bound"):
        limited.check(dataclasses.replace(TRAINING, optimizer="sgd"))


def test_a_ramp_needs_room_and_a_beginning_below_its_end():
    with pytest.raises(UserError, match=r"^ramp_fraction=0.8: a share of the steps, at most the 0.5 before the polish"):
        dataclasses.replace(NEUTRAL, ramp_fraction=0.8, polish_fraction=0.5)
    with pytest.raises(UserError, match=r"^ramp_from=1.0: a sparsity, 0"):
        dataclasses.replace(NEUTRAL, ramp_from=1.0)


def test_a_ramp_can_start_half_way_from_another_methods_solution(windows, monkeypatch):
    begun = []
    after_step = Admm.after_step

    def spy(self, step):
        begun.append([float((state.sparse() == 0).float().mean()) for state in self._states.values()])
        return after_step(self, step)

    monkeypatch.setattr("elsa.method.elsa.Admm.after_step", spy)
    half_way = dataclasses.replace(
        NEUTRAL,
        interval=1,
        start=Magnitude(match_reference=False),
        start_weights=True,
        ramp_fraction=0.5,
        ramp_from=0.5,
    )
    model, _, _ = pruned(half_way, windows)
    left = (1 - 0.5 / 0.7) ** (1 / 3)
    assert begun[0] == pytest.approx([0.5] * len(begun[0]), abs=1e-3)
    assert begun[1] == pytest.approx([0.7 * (1 - (left * 2 / 3) ** 3)] * len(begun[1]), abs=1e-3)
    for weight in prunable_weights(model).values():
        assert int((weight.value_OI == 0).sum()) == PATTERN.zeros(weight.value_OI.numel())


def test_a_ramp_does_not_start_where_it_ends(windows):
    start = dataclasses.replace(NEUTRAL, ramp_fraction=0.5, ramp_from=0.9)._ramp_start(PATTERN)
    assert PATTERN.ramped(start).ratio == pytest.approx(0.97 * 0.7)
