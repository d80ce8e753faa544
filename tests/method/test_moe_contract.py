"""What every method promises, on models with experts."""

from dataclasses import replace

import pytest
import torch

from elsa.admm.penalty import Auto
from elsa.method.elsa import Elsa
from elsa.model.weights import choose, prunable_weights
from elsa.sparsity.pattern import Pattern
from tests.experts import MOE_CONFIGS, moe_model
from tests.method.methods import METHODS
from tests.method.test_contract import PATTERNS, task

LAYOUTS = ["mixtral", "gpt_oss"]
GLOBAL = replace(PATTERNS["70 %"], allocation="global")
TRAINING = ("best", "elsa", "elsa_plus", "finetuned")
BY_ROWS = ("wanda", "finetuned")


def method_of(name, **changes):
    """With all windows, so that enough tokens reach every expert for Wanda."""
    method = METHODS[name]
    if getattr(method, "start", None) is not None:
        changes["start"] = replace(method.start, **{"calibration_windows": 24} | changes.pop("of_start", {}))
    if hasattr(method, "calibration_windows"):
        changes["calibration_windows"] = 24
    return replace(method, **changes)


def pruned(family, windows, name, pattern, **changes):
    """Model, facts, and the names of parameters that changed."""
    model = moe_model(family)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    facts = method_of(name, **changes).apply(model, task(windows, pattern)[0])
    after = model.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    return model, facts, {key for key in after if not torch.equal(after[key], before[key])}


def check_exact(weights, name, pattern):
    for key, weight in weights.items():
        values = weight.value_OI
        if pattern.group:
            assert int((values.reshape(-1, 4) != 0).sum(1).max()) <= 2, key
        by_rows = name in BY_ROWS
        exact = values.shape[0] * pattern.zeros(values.shape[1]) if by_rows else pattern.zeros(values.numel())
        assert int((values == 0).sum()) == exact, key


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
@pytest.mark.parametrize("name", ["wanda", "sparsegpt", "alps", *TRAINING, "safe", "swaps", "reconstruct", "l_admm"])
@pytest.mark.parametrize("family", LAYOUTS)
def test_contract(family, windows, name, pattern):
    changes = {"few_tokens": "all_tokens"} if name in ("sparsegpt", "alps", "l_admm") else {}
    if name in ("swaps", "reconstruct"):
        changes = {"of_start": {"few_tokens": "all_tokens"}}
        changes |= {"few_tokens": "all_tokens"} if name == "swaps" else {}
    model, facts, changed = pruned(family, windows, name, pattern, **changes)
    weights = prunable_weights(model)
    check_exact(weights, name, pattern)
    parameters = {weight.parameter_name for weight in weights.values()}
    assert changed > parameters if name in TRAINING else changed == parameters
    if name in ("wanda", "sparsegpt", "finetuned"):
        experts = [key for key, weight in weights.items() if weight.expert is not None]
        assert list(facts["expert_tokens"]) == experts
        assert sum(facts["expert_tokens"].values()) == windows.numel() * 2 * 2 * 2, (
            "two of four, two matrices, two blocks"
        )


@pytest.mark.parametrize("name", ["wanda", "sparsegpt", "alps", *TRAINING])
@pytest.mark.parametrize("family", LAYOUTS)
def test_a_global_budget_is_spent_where_it_costs_least(family, windows, name):
    changes = {"few_tokens": "all_tokens"} if name in ("sparsegpt", "alps") else {}
    weights = prunable_weights(pruned(family, windows, name, GLOBAL, **changes)[0])
    zeros = {key: int((weight.value_OI == 0).sum()) for key, weight in weights.items()}
    total = sum(weight.numel for weight in weights.values())
    rows = sum(len(weight.value_OI) for weight in weights.values()) if name in BY_ROWS else 0
    assert abs(sum(zeros.values()) - round(0.7 * total)) <= rows
    shares = [zeros[key] / weight.numel for key, weight in weights.items() if weight.expert is not None]
    assert max(shares) - min(shares) > 0.03


@pytest.mark.parametrize("name", ["magnitude", "elsa", "wanda"])
@pytest.mark.parametrize("family", [family for family in MOE_CONFIGS if family not in LAYOUTS])
def test_all_families_are_pruned_exactly(family, windows, name):
    model, _, changed = pruned(family, windows, name, PATTERNS["2:4"])
    check_exact(prunable_weights(model), name, PATTERNS["2:4"])
    assert {weight.parameter_name for weight in prunable_weights(model).values()} <= changed


@pytest.mark.parametrize("name", ["magnitude", "safe", "reconstruct"])
def test_an_expert_that_is_left_out_keeps_its_bits(windows, name):
    model = moe_model("mixtral")
    key = "model.layers.0.mlp.experts.gate_up_proj[1]"
    weight = prunable_weights(model)[key]
    before = weight.value_OI.clone()
    choose(model, None, [key])
    method = replace(METHODS[name], start=METHODS["magnitude"]) if name == "reconstruct" else METHODS[name]
    method.apply(model, task(windows, PATTERNS["2:4"])[0])
    assert torch.equal(weight.value_OI, before)
    check_exact(prunable_weights(model), name, PATTERNS["2:4"])


def test_an_expert_that_training_does_not_reach_keeps_its_largest_weights(windows):
    model = moe_model("gpt_oss")
    for layer in model.model.layers:
        with torch.no_grad():
            layer.mlp.router.weight.zero_()
            layer.mlp.router.bias.copy_(torch.tensor([1.0, 1.0, 0.0, -100.0]))
    dense = {key: weight.value_OI.clone() for key, weight in prunable_weights(model).items()}
    half = Pattern(pattern="unstructured", ratio=0.5)
    given = replace(task(windows, half)[0], penalty=Auto())  # one in the gradient would reach it
    Elsa(interval=2).apply(model, given)
    for key, weight in prunable_weights(model).items():
        if weight.expert == 3:
            kept = weight.value_OI != 0
            assert torch.equal(kept, half.mask(dense[key].square())), key


def test_the_loss_of_the_sparse_copy_is_measured_with_experts(windows):
    given, logged = task(windows, PATTERNS["70 %"])
    METHODS["elsa"].apply(moe_model("mixtral"), replace(given, probe_every=2))
    losses = [metrics for _, metrics in logged if "probe_loss_sparse" in metrics]
    assert losses
    assert all(each["probe_loss_sparse"] != each["probe_loss"] for each in losses)
