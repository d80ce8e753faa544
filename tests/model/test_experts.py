"""Experts as prunable weights: found, viewed, named, saved."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from elsa.checkpoint.saving import count_zeros, save
from elsa.errors import UserError
from elsa.globs import expert_name, stored_name
from elsa.model.experts import fused, routers
from elsa.model.weights import choose, coverage, entries_of, prunable_weights
from tests.experts import MOE_CONFIGS, moe_model

EXPERTS = {"deepseek_v2": 8, "deepseek_v3": 8, "jamba": 8}  # matrices; 16 in the others, all of whose blocks have them
TRANSPOSED = {"gpt_oss", "llama4"}
GATES = {"deepseek_v2": 1, "deepseek_v3": 1, "jamba": 1, "qwen3_next": 4}


@pytest.mark.parametrize("family", MOE_CONFIGS)
def test_every_matrix_of_every_expert_is_found_and_no_router(family):
    model = moe_model(family)
    found, covered = prunable_weights(model), coverage(model)
    experts = {name: weight for name, weight in found.items() if weight.expert is not None}
    assert covered.share >= 0.95
    assert len(experts) == EXPERTS.get(family, 16)
    assert len(covered.routers) == GATES.get(family, 2)
    assert str(covered).endswith(" weights) are left alone")
    assert covered.facts()["routers"] == covered.routers
    assert not [name for name in found if name.endswith(("gate.weight", "router.weight"))]
    assert {weight.parameter_name for weight in found.values()} <= model.state_dict().keys()
    for name, weight in experts.items():
        outputs, inputs = weight.shape_OI
        assert weight.transposed == (family in TRANSPOSED)
        assert (inputs if "gate_up" in name else outputs) == 32, "the hidden states"
        assert stored_name(name) == (weight.parameter_name, weight.expert)
        assert expert_name(weight.parameter_name, weight.expert) == name
    assert sum(weight.numel for weight in found.values()) == covered.prunable


@pytest.mark.parametrize("family", MOE_CONFIGS)
def test_experts_are_written_one_by_one_and_counted_in_the_saved_file(family, tokenizer, tmp_path):
    model = moe_model(family)
    weights = prunable_weights(model)
    ids = torch.arange(32).view(2, 16)
    for number, weight in enumerate(weights.values()):
        weight.value_OI[:, : 1 + number % 5] = 0
    counts = count_zeros(_saved(model, tokenizer, tmp_path), list(weights))
    for number, (name, weight) in enumerate(weights.items()):
        zeros = weight.shape_OI[0] * (1 + number % 5)
        assert counts[name] == {"zeros": zeros, "numel": weight.numel}, name
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "m").eval()
    with torch.no_grad():
        logits = [each(input_ids=ids, use_cache=False).logits for each in (model, again)]
    assert torch.equal(*logits)


def _saved(model, tokenizer, tmp_path):
    save(model, tokenizer, tmp_path / "m")
    return tmp_path / "m"


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss"])
def test_the_gradient_of_an_expert_is_a_view_of_its_part(family):
    model = moe_model(family)
    model(input_ids=torch.arange(32).view(2, 16), use_cache=False).logits.square().mean().backward()
    weight = next(w for w in prunable_weights(model).values() if w.expert == 2)
    others = weight.parameter.grad[[0, 1, 3]].clone()
    assert weight.gradient_OI.shape == weight.value_OI.shape
    weight.gradient_OI.zero_()
    assert not weight.parameter.grad[2].any()
    assert torch.equal(weight.parameter.grad[[0, 1, 3]], others)
    assert others.any()


def test_experts_are_chosen_by_their_number_or_all_together():
    model = moe_model("mixtral")
    choose(model, ["*.experts.gate_up_proj"], [])
    assert len(prunable_weights(model)) == 8
    choose(model, None, ["model.layers.0.mlp.experts.down_proj[3]", "*.self_attn.*"])
    assert len(prunable_weights(model)) == 15
    assert coverage(model).left_out["model.layers.0.mlp.experts.down_proj[3]"] == 32 * 48
    choose(model, ["model.layers.0.mlp.experts.down_proj[3]"], [])
    assert list(prunable_weights(model)) == ["model.layers.0.mlp.experts.down_proj[3]"]
    choose(model, None, ["model.layers.0.mlp.experts.down_proj[3]"])
    own = entries_of(prunable_weights(model))["model.layers.0.mlp.experts.down_proj"]
    assert own[:3].all()
    assert not own[3].any()


def module(*shapes, **attributes):
    found = nn.Module()
    for number, shape in enumerate(shapes):
        found.register_parameter(f"p{number}", nn.Parameter(torch.zeros(shape)))
    for name, value in attributes.items():
        setattr(found, name, value)
    return found


@pytest.mark.parametrize(
    ("shapes", "attributes", "layout"),
    [
        ([(4, 16, 8), (4, 8, 8)], {}, False),  # gated, its halves as large as the hidden states
        ([(4, 8, 16), (4, 8, 8)], {}, True),
        ([(4, 8, 8), (4, 16, 8)], {}, False),  # the last one first
        ([(4, 8, 8), (4, 8, 4)], {}, False),  # hidden states as wide as both halves together
        ([(4, 16, 8), (4, 8, 16)], {"is_transposed": False}, False),  # without a gate both would do
        ([(4, 8, 16), (4, 16, 8)], {"is_transposed": True}, True),
        ([(4, 8, 8), (4, 8, 8)], {"is_transposed": True}, True),
        ([(4, 16, 8)], {"input_size": 8, "output_size": 16}, False),
        ([(4, 8, 16)], {"input_size": 8, "output_size": 16}, True),
        ([(4, 16, 8)], {}, None),  # of something else
        ([(4, 12, 8), (4, 8, 5)], {}, None),
        ([(4, 16, 8), (5, 8, 8)], {}, None),
        ([(4, 16, 8), (4, 8, 8)], {"is_transposed": True}, None),
        ([(4, 1, 3)], {"input_size": 1, "output_size": 3}, None),  # of a convolution
    ],
)
def test_the_layout_is_what_makes_the_matrices_fit(shapes, attributes, layout):
    found = fused(module(*shapes, **attributes), "x")
    assert {each.transposed for each in found} == (set() if layout is None else {layout})
    assert len(found) == (0 if layout is None else len(shapes))


def test_matrices_come_in_the_order_of_their_use():
    assert [each.name for each in fused(module((4, 8, 8), (4, 16, 8)), "x")] == ["p1", "p0"]
    assert [each.name for each in fused(module((4, 16, 8), (4, 8, 8)), "x")] == ["p0", "p1"]
    assert [each.name for each in fused(module((4, 8, 8), (4, 8, 8), is_transposed=False), "x")] == ["p0", "p1"]


@pytest.mark.parametrize(
    ("shapes", "attributes"),
    [([(4, 16, 8), (4, 8, 16)], {}), ([(4, 8, 8), (4, 8, 8)], {}), ([(4, 8, 8)], {"input_size": 8, "output_size": 8})],
)
def test_a_layout_that_cannot_be_told_is_refused(shapes, attributes):
    with pytest.raises(UserError, match=r"^model: x has experts' matrices \(p0 .*\), and nothing says which sides are"):
        fused(module(*shapes, **attributes), "x")


class Block(nn.Module):
    """Experts of linear layers in a list, a router, and the gate of a shared expert."""

    def __init__(self, experts=3):
        super().__init__()
        self.router = nn.Linear(8, experts)
        self.shared_gate = nn.Linear(8, 1)
        self.shared = nn.Sequential(nn.Linear(8, 3), nn.Linear(3, 8))
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(8, 12), nn.Linear(12, 8)) for _ in range(experts))
        self.other = nn.Linear(8, 8)

    def forward(self, x):
        shares = self.router(x).softmax(-1)
        routed = sum(shares[..., e : e + 1] * each(x) for e, each in enumerate(self.experts))
        return self.other(routed + F.sigmoid(self.shared_gate(x)) * self.shared(x))


def test_routers_beside_experts_of_linear_layers_are_left_alone():
    assert routers(Block()).keys() == {"router.weight", "shared_gate.weight"}
    model = nn.Module()
    model.layers = nn.ModuleList([Block(), Block()])
    found = prunable_weights(model)
    assert len(found) == 2 * (2 + 6 + 1)
    assert not [name for name in found if "gate" in name or "router" in name]
    assert coverage(model).share == 1.0
