"""Masked reconstruction: what is kept learns the dense outputs, and nothing else changes."""

import dataclasses

import pytest
import torch

from elsa.errors import UserError
from elsa.method.dense import Dense
from elsa.method.reconstruct import Reconstruct, Reconstruction
from elsa.method.wanda import Wanda
from elsa.model.weights import decoder_blocks, prunable_weights
from tests.conftest import random_model
from tests.method.test_contract import PATTERNS, task

START = Wanda(calibration_windows=8)
METHOD = Reconstruct(start=START, calibration_windows=8, epochs=20, learning_rate=3e-3)


def pruned(method, windows, pattern="70 %", family="llama"):
    model = random_model(family)
    facts = method.apply(model, task(windows, PATTERNS[pattern])[0])
    return model, facts


def hidden_error(model, windows):
    """Of every block's output against the dense model's, relative."""
    ids = windows[:8].long()
    dense = random_model(model.config.model_type).eval()(ids, output_hidden_states=True).hidden_states
    ours = model.eval()(ids, output_hidden_states=True).hidden_states
    return [float((a - b).square().sum() / b.square().sum()) for a, b in zip(ours[1:], dense[1:], strict=True)]


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_it_keeps_the_mask_and_comes_nearer_to_the_dense_model(windows, family):
    before, _ = pruned(START, windows, family=family)
    after, facts = pruned(METHOD, windows, family=family)
    for (name, one), other in zip(prunable_weights(after).items(), prunable_weights(before).values(), strict=True):
        assert torch.equal(one.value_OI != 0, other.value_OI != 0), name
        assert not torch.equal(one.value_OI, other.value_OI), name
    others = before.state_dict().keys() - prunable_weights(before).keys()
    assert all(torch.equal(after.state_dict()[key], before.state_dict()[key]) for key in others)
    assert facts["sub_block_error"]["after"] < 0.8 * facts["sub_block_error"]["before"]
    with torch.no_grad():
        errors = list(zip(hidden_error(after, windows), hidden_error(before, windows), strict=True))
    assert all(one < 0.9 * other for one, other in errors)


def test_a_sub_blocks_goal_is_the_dense_output_on_the_dense_input(windows, monkeypatch):
    """Seen at the second block: its attention's goal is what the dense model computes there."""
    seen = []
    train = Reconstruction._train

    def spy(self, part, weights, inputs, call, goals):
        seen.append((next(iter(weights)), torch.cat(list(inputs)), torch.cat(list(goals))))
        train(self, part, weights, inputs, call, goals)

    monkeypatch.setattr(Reconstruction, "_train", spy)
    model, _ = pruned(dataclasses.replace(METHOD, epochs=1), windows)
    goals = {name: goal for name, _, goal in seen}
    dense, found = random_model("llama").eval(), []
    hook = decoder_blocks(dense)[1].self_attn.register_forward_hook(lambda *args: found.append(args[2][0]))
    with torch.no_grad():
        dense(windows[:8].long())
    hook.remove()
    name = next(name for name in goals if name.startswith("model.layers.1.self_attn"))
    torch.testing.assert_close(goals[name], found[0], rtol=1e-4, atol=1e-5)
    assert len(seen) == 2 * len(decoder_blocks(model))


def test_a_method_that_prunes_nothing_leaves_nothing_to_reconstruct():
    with pytest.raises(UserError, match="start=dense: a method that prunes in one shot"):
        Reconstruct(start=Dense())
