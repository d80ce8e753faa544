"""What every method promises, on decoders in wrappers, on blocks that share weights, and on mixers."""

from dataclasses import replace

import pytest
import torch

from elsa.errors import UserError
from elsa.model.weights import beside_text, prunable_weights
from tests.method.methods import METHODS
from tests.method.test_contract import PATTERNS, task
from tests.wrappers import MIXED_CONFIGS, WRAPPER_CONFIGS, needs_new, other_model

GLOBAL = {"70 % global": replace(PATTERNS["70 %"], allocation="global")}
TRAINING = ("elsa", "finetuned")
KNOWN = {*WRAPPER_CONFIGS, *MIXED_CONFIGS}
WHOLE = {"gemma3", "zamba2", "jamba"}
BY_ROWS = ("wanda", "finetuned")


def check_exact(weights, name, pattern):
    if pattern.allocation == "global":
        total = sum(weight.numel for weight in weights.values())
        zeros = sum(int((weight.value_OI == 0).sum()) for weight in weights.values())
        rows = sum(len(weight.value_OI) for weight in weights.values()) if name in BY_ROWS else 0
        assert abs(zeros - round(0.7 * total)) <= rows
        return
    for key, weight in weights.items():
        values = weight.value_OI
        if pattern.group:
            assert int((values.reshape(-1, 4) != 0).sum(1).max()) <= 2, key
        exact = values.shape[0] * pattern.zeros(values.shape[1]) if name in BY_ROWS else pattern.zeros(values.numel())
        assert int((values == 0).sum()) == exact, key


def pruned(family, windows, name, pattern):
    model = other_model(family)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    apart = {key for key, each in model.named_parameters() if id(each) in beside_text(model)}
    method = METHODS[name]
    method.check_model(model)
    method.apply(model, task(windows, pattern)[0])
    after = model.state_dict()
    assert all(torch.isfinite(value).all() for value in after.values())
    changed = {key for key in after if not torch.equal(after[key], before[key])}
    assert not changed & apart, "towers and projectors keep their bits"
    assert not model.training
    return model, changed


@pytest.mark.parametrize("pattern", (PATTERNS | GLOBAL).values(), ids=(PATTERNS | GLOBAL).keys())
@pytest.mark.parametrize("name", ["wanda", "sparsegpt", "elsa", "finetuned"])
@pytest.mark.parametrize("family", sorted(WHOLE & KNOWN))
def test_contract(family, windows, name, pattern):
    model, changed = pruned(family, windows, name, pattern)
    weights = prunable_weights(model)
    check_exact(weights, name, pattern)
    names = set(weights) | {key for key in model.state_dict() if "layers.3.shared_transformer" in key}
    assert set(weights) <= changed
    assert changed <= names or name in TRAINING


@pytest.mark.parametrize("name", ["wanda", "elsa"])
@pytest.mark.parametrize("family", sorted(KNOWN - WHOLE))
def test_all_families_are_pruned_exactly(family, windows, name):
    model, changed = pruned(family, windows, name, PATTERNS["2:4"])
    check_exact(prunable_weights(model), name, PATTERNS["2:4"])
    assert set(prunable_weights(model)) <= changed


@needs_new
@pytest.mark.parametrize("name", ["safe", "sparsellm", "reconstruct"])
def test_methods_that_fit_a_block_refuse_blocks_that_share_weights(name):
    with pytest.raises(UserError, match=rf"method=.*{name}: blocks 1, 3 share model\.layers\.1\.shared_transformer\."):
        METHODS[name].check_model(other_model("zamba2"))
    following = replace(METHODS["finetuned"], start=METHODS[name])
    with pytest.raises(UserError, match="share"):
        following.check_model(other_model("zamba2"))
    METHODS[name].check_model(other_model("jamba"))
