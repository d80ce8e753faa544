import pytest
import torch

from elsa.method.dense import Dense
from elsa.method.finetuned import FineTuned, FixedSupport
from elsa.method.magnitude import Magnitude
from elsa.method.wanda import Wanda
from elsa.model.weights import prunable_weights
from elsa.sparsity.pattern import Pattern
from tests.conftest import random_model
from tests.method.test_contract import task

PATTERN = Pattern(pattern="unstructured", ratio=0.7)


def test_the_support_of_the_start_is_kept_and_its_values_train(windows):
    start, tuned = random_model("llama"), random_model("llama")
    wanda = Wanda(calibration_windows=8)
    wanda.apply(start, task(windows, PATTERN)[0])
    FineTuned(start=wanda).apply(tuned, task(windows, PATTERN)[0])
    for name, weight in prunable_weights(start).items():
        other = prunable_weights(tuned)[name].value_OI
        assert torch.equal(weight.value_OI != 0, other != 0)
        assert not torch.equal(weight.value_OI, other)


def test_a_weight_that_leaves_the_support_is_caught(llama):
    weights = prunable_weights(llama)
    Magnitude(match_reference=False).apply(llama, task(None, PATTERN)[0])
    support = FixedSupport(weights)
    support.finish()
    next(iter(weights.values())).value_OI[:] = 1.0
    support.after_step(31)
    with pytest.raises(AssertionError, match=r"q_proj\.weight has left the support"):
        support.after_step(32)


def test_after_dense_nothing_is_held_not_even_zeros_of_the_model(windows):
    model = random_model("llama")
    weight = prunable_weights(model)["model.layers.0.mlp.up_proj.weight"].value_OI
    weight[0, 0] = 0
    FineTuned(start=Dense()).apply(model, task(windows, PATTERN)[0])
    assert weight[0, 0] != 0


def test_what_it_reads_follows_from_its_start():
    assert "sparsity" not in FineTuned(start=Dense()).reads
    assert "sparsity" in FineTuned(start=Wanda(calibration_windows=8)).reads
