"""Elsa+ as its YAML ships it: from ALPS's weights, hard projections, one budget for all, taught by the dense model."""

import dataclasses
import math

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from elsa.method.finetuned import FineTuned
from elsa.model.weights import prunable_weights
from elsa.sparsity.allocation import allocate
from tests.conftest import random_model
from tests.method.methods import METHODS, shipped, task_of


@pytest.fixture(scope="module")
def config():
    return shipped()


def values_of(model):
    return {name: weight.value_OI.clone() for name, weight in prunable_weights(model).items()}


@pytest.fixture(scope="module")
def run(config):
    """Of every update: weights and second moments right before it, weights and metrics right after it."""
    model, last, updates = random_model("llama"), {}, {}

    def stepped(optimizer, *_):
        moments = {name: optimizer.state[w.parameter]["exp_avg_sq"] for name, w in prunable_weights(model).items()}
        last.update(weights=values_of(model), moments={name: moment.clone() for name, moment in moments.items()})

    def log(step, metrics):
        if "mask_change" in metrics:
            updates[step] = last | {"after": values_of(model), "metrics": metrics}

    windows = torch.randint(0, 300, (24, 16), generator=torch.Generator().manual_seed(1), dtype=torch.int32)
    handle = register_optimizer_step_post_hook(stepped)
    facts = config.method.apply(model, task_of(config, windows, log))
    handle.remove()
    return model, updates, facts


def held(updates, step):
    """The weights right before an update, without what momentum has put where nothing is kept."""
    weights = updates[step]["weights"]
    before = updates.get(step - 2)
    return weights if before is None else {name: weights[name] * (before["after"][name] != 0) for name in weights}


def test_an_update_keeps_the_highest_weight_squared_times_second_moment_of_each_layer(run):
    _, updates, _ = run
    assert list(updates) == [2, 4]
    for step in updates:
        for name, weight in held(updates, step).items():
            kept = updates[step]["after"][name] != 0
            score = weight.double().square() * updates[step]["moments"][name].double()
            best = torch.zeros(kept.numel(), dtype=torch.bool)
            best[score.flatten().topk(int(kept.sum())).indices] = True
            assert torch.equal(kept, best.view_as(kept)), (step, name)
            assert torch.equal(updates[step]["after"][name], weight * kept)


def test_all_layers_share_one_budget_by_that_score(run, config):
    model, updates, _ = run
    scores = {name: w.square() * updates[4]["moments"][name] for name, w in held(updates, 4).items()}
    zeros = {name: int((value == 0).sum()) for name, value in values_of(model).items()}
    assert zeros == allocate(scores.__getitem__, scores, 0.9)
    assert sum(zeros.values()) == round(0.9 * sum(score.numel() for score in scores.values()))
    assert len({zeros[name] / score.numel() for name, score in scores.items()}) > 7


def test_an_update_reports_the_energy_that_it_removes(run):
    _, updates, _ = run
    weights, after = held(updates, 4), updates[4]["after"]
    off = sum(float((weights[name] - after[name]).square().sum()) for name in after)
    sparse = sum(float(value.square().sum()) for value in after.values())
    pruned = sum(int((value == 0).sum()) for value in after.values())
    expected = {
        "relative_residual": math.sqrt(off / sparse), "off_support_energy": off / (off + sparse),
        "off_support_rms": math.sqrt(off / pruned),
    }  # fmt: skip
    assert {key: updates[4]["metrics"][key] for key in expected} == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("name", ["elsa_plus", "finetuned"])
def test_the_teacher_is_the_dense_model_not_what_the_start_makes_of_it(config, windows, name):
    one_step = {"steps": 1, "warmup_steps": 0, "batch_size": 4, "autocast": "none", "hidden_distillation": 0.0}
    one_step = dataclasses.replace(config.training, **one_step)
    given, ids = dataclasses.replace(task_of(config, windows), training=one_step), windows[:4].long()
    if name == "elsa_plus":
        start, method = config.method.start, dataclasses.replace(config.method, ramp_fraction=0.0)
    else:
        start, method = METHODS["wanda"], FineTuned(start=METHODS["wanda"])
    dense, started = random_model("llama"), random_model("llama")
    start.apply(started, given)
    with torch.no_grad():
        wanted, predicted = (model(ids).logits[:, :-1].double().log_softmax(-1) for model in (dense, started))
    divergence = (wanted.exp() * (wanted - predicted)).sum() / (4 * 15)
    facts = method.apply(random_model("llama"), given)
    assert facts["last"]["loss"] == pytest.approx(float(divergence), rel=1e-4)
