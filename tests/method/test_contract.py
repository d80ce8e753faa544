"""What every method promises, on random models of eight families."""

from dataclasses import replace

import pytest
import torch

from elsa.admm.penalty import Constant
from elsa.errors import UserError
from elsa.evaluation.perplexity import mean_loss
from elsa.method.base import Task
from elsa.model.weights import prunable_weights
from elsa.sparsity.pattern import Pattern
from tests.conftest import CONFIGS, random_model
from tests.method.methods import METHODS, PRECISION, TRAINING

PATTERNS = {"70 %": Pattern(pattern="unstructured", ratio=0.7), "2:4": Pattern(pattern="2:4", ratio=None)}


def task(windows, pattern):
    logged = []
    made = Task(
        pattern=pattern, training=TRAINING, penalty=Constant(value=0.1), precision=PRECISION,
        windows=lambda count: windows[:count], log=lambda step, metrics: logged.append((step, metrics)),
    )  # fmt: skip
    return made, logged


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
@pytest.mark.parametrize("name", METHODS)
def test_contract(model, windows, name, pattern):
    method = METHODS[name]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    given, logged = task(windows, pattern)
    if name == "sparsellm" and model.config.model_type in ("gpt2", "gpt_neox"):
        with pytest.raises(UserError, match="needs feed-forward parts of"):
            method.check_model(model)
        return
    method.check_model(model)
    facts = method.apply(model, given)

    weights = prunable_weights(model)
    after = model.state_dict()
    assert isinstance(facts, dict)
    assert after.keys() == before.keys()
    assert all(torch.isfinite(value).all() for value in after.values())
    assert all(value.dtype == before[key].dtype for key, value in after.items())
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    if name == "dense":
        assert not changed
    elif name in ("best", "elsa", "elsa_plus", "finetuned"):
        assert changed - weights.keys(), "embeddings and norms train too"
        assert logged[-1][0] == 6
        assert {"loss", "learning_rate", "tokens_per_second"} <= logged[-1][1].keys()
    else:
        assert changed == weights.keys()
    for key, weight in weights.items():
        values = weight.value_OI
        if name == "dense":
            continue
        if pattern.group:
            assert int((values.reshape(-1, 4) != 0).sum(1).max()) <= 2, key
        per_row = name in ("wanda", "finetuned")
        exact = values.shape[0] * pattern.zeros(values.shape[1]) if per_row else pattern.zeros(values.numel())
        assert int((values == 0).sum()) == exact, key
    assert mean_loss(model, windows) > 0


@pytest.mark.parametrize("name", [name for name in METHODS if name != "dense"])
def test_a_global_budget_is_spent_where_it_costs_least(windows, name):
    model, dense = random_model("llama"), random_model("llama")
    METHODS[name].apply(model, task(windows, replace(PATTERNS["70 %"], allocation="global"))[0])
    weights = prunable_weights(model)
    zeros = {key: int((weight.value_OI == 0).sum()) for key, weight in weights.items()}
    total = sum(weight.value_OI.numel() for weight in weights.values())
    rows = sum(len(weight.value_OI) for weight in weights.values()) if name in ("wanda", "finetuned") else 0
    assert abs(sum(zeros.values()) - round(0.7 * total)) <= rows
    shares = {key: zeros[key] / weight.value_OI.numel() for key, weight in weights.items()}
    assert max(shares.values()) - min(shares.values()) > 0.05
    if name == "magnitude":
        every = torch.cat([weight.value_OI.square().flatten() for weight in prunable_weights(dense).values()])
        threshold = every.sort().values[round(0.7 * total)]
        for key, weight in prunable_weights(dense).items():
            assert shares[key] == pytest.approx(float((weight.value_OI.square() < threshold).float().mean()), abs=0.02)


def test_a_budget_is_placed_without_dropout(windows, monkeypatch):
    monkeypatch.setattr(CONFIGS["opt"], "dropout", 0.5)
    evaluating, training = random_model("opt"), random_model("opt").train()
    for model in (evaluating, training):
        METHODS["wanda"].apply(model, task(windows, replace(PATTERNS["70 %"], allocation="global"))[0])
    assert all(map(torch.equal, training.state_dict().values(), evaluating.state_dict().values()))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "dense"])
def test_a_method_is_a_function_of_its_inputs(windows, name):
    results = []
    for _ in range(2):
        model = random_model("llama")
        METHODS[name].apply(model, task(windows, PATTERNS["70 %"])[0])
        results.append(model.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])


@pytest.mark.parametrize("name", ["magnitude", "sparsegpt", "elsa"])
def test_transposed_layers_are_pruned_as_outputs_by_inputs(windows, name):
    model = random_model("gpt2")
    METHODS[name].apply(model, task(windows, PATTERNS["2:4"])[0])
    for weight in prunable_weights(model).values():
        assert weight.transposed
        assert int((weight.value_OI.reshape(-1, 4) != 0).sum(1).max()) <= 2


def test_elsa_reports_penalty_residual_and_mask_change(llama, windows):
    given, logged = task(windows, PATTERNS["70 %"])
    facts = METHODS["elsa"].apply(llama, given)
    assert [step for step, _ in logged] == [2, 4, 6]
    assert {"penalty", "relative_residual", "mask_change", "off_support_energy"} <= logged[0][1].keys()
    assert 0 < facts["before_projection"]["off_support_energy"] < 1
