"""Blocks that share weights, that get the first one's inputs too, and layers whose weight is read without a call."""

import pytest
import torch

from elsa.layerwise.capture import capture
from elsa.layerwise.driver import collect
from elsa.layerwise.statistics import EnergyStatistics
from elsa.model.weights import decoder_blocks, weights_by_block
from tests.wrappers import needs_new, other_model

pytestmark = needs_new

SHARED = "model.layers.1.shared_transformer."


@pytest.fixture
def many(windows):
    """So long that the driver goes over them in several batches."""
    return windows.repeat(8, 1)[:, :16].reshape(12, -1)


def energies(model, names, windows):
    """Of the inputs of all modules with the weights of these, in one real forward."""
    found = dict.fromkeys(names, 0.0)
    weights = {name: model.get_submodule(name).weight for name in names}
    modules = [(name, m) for m in model.modules() for name in names if getattr(m, "weight", None) is weights[name]]

    def see(name, inputs):
        found[name] = found[name] + inputs.flatten(0, -2).square().sum(0)

    hooks = [m.register_forward_pre_hook(lambda module, args, name=name: see(name, args[0])) for name, m in modules]
    with torch.no_grad():
        model(input_ids=windows.long(), use_cache=False)
    for hook in hooks:
        hook.remove()
    return found


@torch.no_grad()
def collected(model, index, windows):
    replay, layers = capture(model, decoder_blocks(model), windows), weights_by_block(model)[index]
    assert len(replay.hidden) > 1
    for before in range(index):
        replay.propagate(before)
    groups = collect(replay, index, layers, EnergyStatistics())
    return replay, {name.removesuffix(".weight"): statistic for names, statistic in groups for name in names}


def test_a_replay_gives_blocks_the_inputs_of_the_first_where_the_model_does(many):
    model = other_model("zamba2")
    replay = capture(model, decoder_blocks(model), many)  # proves itself on the last batch
    assert replay.first is not None
    for index in range(4):
        replay.propagate(index)
    found = []
    with (
        decoder_blocks(model)[-1].register_forward_hook(lambda block, args, output: found.append(output)),
        torch.no_grad(),
    ):
        model(input_ids=many.long(), use_cache=False)
    expected = found[0][0] if isinstance(found[0], tuple) else found[0]
    torch.testing.assert_close(torch.cat(list(replay.hidden)), expected, rtol=1e-4, atol=1e-4)
    others = other_model("jamba")
    assert capture(others, decoder_blocks(others), many).first is None


def test_the_statistics_of_a_shared_layer_are_those_of_all_its_places(many):
    model = other_model("zamba2")
    replay, found = collected(model, 1, many)
    expected = energies(model, list(found), many)
    assert len(found) == 25
    assert found.keys() == expected.keys()
    for name, energy in found.items():
        torch.testing.assert_close(energy, expected[name], rtol=1e-3, atol=1e-4, msg=name)
    first, second = (found[f"{SHARED}self_attn.linear_q_adapter_list.{place}.0"] for place in (0, 1))
    torch.testing.assert_close(first + second, found[f"{SHARED}self_attn.q_proj"], rtol=1e-3, atol=1e-4)
    query = model.get_submodule(f"{SHARED}self_attn.q_proj").weight
    held, last = replay.holders(1, {"q": query})
    assert last == 3
    assert all(module.weight is query for module in held["q"])
    assert replay.holders(0, {"in": model.model.layers[0].mamba.in_proj.weight})[1] == 0


def test_a_weight_that_is_read_without_a_call_gets_its_inputs(many):
    model = other_model("jamba")
    _, found = collected(model, 0, many)
    seen, norm = [], model.model.layers[0].mamba.dt_layernorm
    with norm.register_forward_hook(lambda module, args, output: seen.append(output)), torch.no_grad():
        model(input_ids=many.long(), use_cache=False)
    torch.testing.assert_close(
        found["model.layers.0.mamba.dt_proj"], seen[0].flatten(0, -2).square().sum(0), rtol=1e-3, atol=1e-4
    )
    others = energies(model, [name for name in found if "dt_proj" not in name], many)
    for name, energy in others.items():
        torch.testing.assert_close(energy, found[name], rtol=1e-3, atol=1e-4, msg=name)
