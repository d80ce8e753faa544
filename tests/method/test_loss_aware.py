"""The projection that a penalty's pull does not mislead."""

import dataclasses
import logging

import pytest
import torch

from elsa.admm.engine import Admm
from elsa.admm.penalty import Auto, Constant
from elsa.method.elsa import Elsa
from elsa.model.weights import prunable_weights
from tests.conftest import random_model
from tests.method.methods import TRAINING
from tests.method.test_contract import PATTERNS, task

STRONG = Constant(value=1.0)


def pruned(projection, windows, penalty, **training):
    model = random_model("llama")
    given, _ = task(windows, PATTERNS["70 %"])
    given = dataclasses.replace(given, penalty=penalty, training=dataclasses.replace(TRAINING, **training))
    Elsa(interval=2, projection=projection).apply(model, given)
    return {name: weight.value_OI.clone() for name, weight in prunable_weights(model).items()}


def test_it_weighs_by_the_running_mean_of_the_losss_squared_gradients(windows, monkeypatch):
    expected, seen, on_gradient, update = {}, [], Admm.on_gradient, Admm._update_states

    def before_the_pull(self, name):
        for weight in self._projection.held.get(name, ()):
            square = weight.gradient_OI.double().square()
            expected[weight.name] = 0.95 * expected.get(weight.name, 0) + 0.05 * square
        on_gradient(self, name)

    def at_an_update(self, step):
        for name, mean in expected.items():
            torch.testing.assert_close(self._projection.importance(name).double(), mean, rtol=1e-4, atol=1e-12)
            adams = self._projection.optimizer.second_moment(name)
            seen.append(float((adams / mean).max()))
        return update(self, step)

    monkeypatch.setattr(Admm, "on_gradient", before_the_pull)
    monkeypatch.setattr(Admm, "_update_states", at_an_update)
    pruned("loss_aware", windows, STRONG)
    assert len(seen) == 3 * len(expected)
    assert max(seen) > 2, "Adam's moment holds the pull"


def test_it_matters_where_the_penalty_acts_through_the_gradient_and_there_alone(windows):
    own, adams = (pruned(projection, windows, STRONG) for projection in ("loss_aware", "objective_aware"))
    assert any(not torch.equal(own[name] != 0, adams[name] != 0) for name in own)
    own, adams = (pruned(projection, windows, Auto()) for projection in ("loss_aware", "objective_aware"))
    assert all(torch.equal(own[name], adams[name]) for name in own)


@pytest.mark.parametrize(
    ("projection", "penalty", "steps", "warns"),
    [
        ("objective_aware", STRONG, 6, True), ("loss_aware", STRONG, 6, False), ("euclidean", STRONG, 6, False),
        ("objective_aware", Auto(), 6, False),
    ],
)  # fmt: skip
def test_a_short_run_that_would_be_misled_says_so(windows, caplog, projection, penalty, steps, warns):
    with caplog.at_level(logging.WARNING):
        pruned(projection, windows, penalty, steps=steps)
    assert ("loss_aware, or penalty=auto, does better" in caplog.text) == warns


def test_a_long_run_says_nothing(windows, caplog):
    given, _ = task(windows, PATTERNS["70 %"])
    long = dataclasses.replace(given, penalty=STRONG, training=dataclasses.replace(TRAINING, steps=1024))
    assert Elsa()._loss_moments(long) is None
    assert not caplog.text
