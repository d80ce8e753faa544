"""Statistics of experts, against what the router chooses."""

import pytest
import torch

from elsa.errors import UserError
from elsa.layerwise.capture import capture
from elsa.layerwise.driver import collect
from elsa.layerwise.statistics import EnergyStatistics, GramStatistics
from elsa.model.weights import decoder_blocks, weights_by_block
from tests.experts import MOE_CONFIGS, moe_model

INDEX = 1  # of a block that has experts in all families


def sent(model, windows):
    """{expert: its inputs [T, H]} of the block, from what its module of experts is given, and that module."""
    module = next(w.module for w in weights_by_block(model)[INDEX].values() if w.expert is not None)
    calls = []
    with module.register_forward_pre_hook(lambda _, args: calls.append(args)), torch.no_grad():
        for batch in windows.long().split(8):
            model(input_ids=batch, use_cache=False)
    if len(calls[0]) == 1:  # Llama 4: one part for each expert, zeros for the tokens that are not sent
        parts = [hidden.view(4, -1, hidden.shape[-1]) for (hidden,) in calls]
        found = {e: torch.cat([part[e] for part in parts]) for e in range(4)}
        return {e: inputs[inputs.abs().sum(1) > 0] for e, inputs in found.items()}, module
    return {e: torch.cat([hidden[(index == e).any(1)] for hidden, index, _ in calls]) for e in range(4)}, module


def activated(module, expert, inputs, weights):
    """What an expert's second matrix sees."""
    weight = next(w for w in weights.values() if w.expert == expert and "gate_up" in w.name)
    pre = inputs @ weight.value_OI.t()
    if hasattr(module, "gate_up_proj_bias"):
        return module._apply_gate(pre + module.gate_up_proj_bias[expert])
    gate, up = pre.chunk(2, dim=-1)
    return module.act_fn(gate) * up


@pytest.mark.parametrize("family", MOE_CONFIGS)
@torch.no_grad()
def test_an_expert_s_statistics_are_those_of_the_tokens_that_are_sent_to_it(family, windows):
    model = moe_model(family)
    weights = weights_by_block(model)[INDEX]
    inputs, module = sent(model, windows)
    implementation = model.config._experts_implementation
    replay = capture(model, decoder_blocks(model), windows)
    for index in range(INDEX):
        replay.propagate(index)
    found = {
        name: statistic for names, statistic in collect(replay, INDEX, weights, GramStatistics()) for name in names
    }
    assert found.keys() == weights.keys()
    assert model.config._experts_implementation == implementation
    for name, weight in weights.items():
        if weight.expert is None:
            assert name not in replay.tokens
            continue
        its = inputs[weight.expert]
        its = its if "gate_up" in name else activated(module, weight.expert, its, weights)
        assert replay.tokens[name] == len(its) > 32
        assert torch.allclose(found[name], its.t() @ its, rtol=1e-3, atol=1e-4)


def starved(family):
    """A model whose router sends no token to expert 3 of the block."""
    model = moe_model(family)
    router = next(
        m for n, m in decoder_blocks(model)[INDEX].named_modules() if n.rpartition(".")[2] in ("gate", "router")
    )
    with torch.no_grad():
        router.weight[3] = 0
        if hasattr(router, "bias"):
            router.bias[3] = -100
        else:
            router.register_forward_hook(away)
    return model


def away(router, args, output):
    """Expert 0 or 1 in place of the last one."""
    logits, shares, index = output
    taken = torch.where((index == 0).any(1, keepdim=True), 1, 0)
    return logits, shares, torch.where(index == 3, taken, index)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
@torch.no_grad()
def test_an_expert_without_tokens_is_named_or_takes_those_of_all(family, windows):
    model = starved(family)
    weights = weights_by_block(model)[INDEX]
    replay = capture(model, decoder_blocks(model), windows)
    replay.propagate(0)
    name = next(name for name, w in weights.items() if w.expert == 3 and "gate_up" in name)
    with pytest.raises(
        UserError, match=r"^method\.few_tokens=refuse: .* 0 reach \S+gate_up_proj\[3\], which takes 32; .*all_tokens$"
    ):
        collect(replay, INDEX, weights, EnergyStatistics())
    found = {n: s for names, s in collect(replay, INDEX, weights, EnergyStatistics(), "all_tokens") for n in names}
    module, every = weights[name].module, []
    with module.register_forward_pre_hook(lambda _, args: every.append(args[0])):
        for hidden in replay.hidden:
            replay.run(INDEX, hidden)
    inputs = torch.cat(every)
    assert replay.tokens[name] == 0
    assert len(inputs) == windows.numel()
    assert torch.allclose(found[name], inputs.square().sum(0), rtol=1e-4)
    second = activated(module, 3, inputs, weights)
    assert torch.allclose(found[name.replace("gate_up", "down")], second.square().sum(0), rtol=1e-4)
    others = {n for n, w in weights.items() if w.expert == 0}
    refused = collect(replay, INDEX, {n: w for n, w in weights.items() if w.expert != 3}, EnergyStatistics())
    assert all(torch.equal(found[n], s) for names, s in refused for n in names if n in others)


class Greedy(EnergyStatistics):
    def fewest_tokens(self, inputs):
        return 10_000


@torch.no_grad()
def test_all_tokens_take_the_place_of_the_few(windows):
    model = moe_model("mixtral")
    weights = weights_by_block(model)[0]
    replay, inputs = capture(model, decoder_blocks(model), windows), []
    found = {n: s for names, s in collect(replay, 0, weights, Greedy(), "all_tokens") for n in names}
    module = next(weight.module for weight in weights.values() if weight.expert is not None)
    with module.register_forward_pre_hook(lambda _, args: inputs.append(args[0])):
        for hidden in replay.hidden:
            replay.run(0, hidden)
    energy = torch.cat(inputs).square().sum(0)
    assert all(torch.allclose(found[n], energy, rtol=1e-4) for n in weights if "gate_up" in n)


@torch.no_grad()
def test_all_tokens_are_refused_where_the_module_is_not_told_where_they_go(windows):
    model = moe_model("llama4")
    weights = weights_by_block(model)[INDEX]
    replay = capture(model, decoder_blocks(model), windows)

    with pytest.raises(UserError, match=r"few_tokens=all_tokens: the module of \S+\[0\] is not told where tokens go"):
        collect(replay, INDEX, weights, Greedy(), "all_tokens")


def test_a_product_from_the_other_side_than_the_shape_says_is_refused(windows):
    model = moe_model("mixtral")
    replay = capture(model, decoder_blocks(model), windows)
    weights = weights_by_block(model)[0]
    for weight in weights.values():
        object.__setattr__(weight, "transposed", weight.expert is not None)
    with pytest.raises(UserError, match="multiplies its inputs from the other side"):
        collect(replay, 0, weights, EnergyStatistics())
