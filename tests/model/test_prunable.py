import copy

import pytest
import torch
from torch import nn

from elsa.errors import UserError
from elsa.model.weights import choose, coverage, decoder_blocks, prunable_weights, weights_by_block
from tests.conftest import random_model

LINEARS = {"llama": 7, "opt": 6, "gemma2": 7, "qwen3": 7, "gemma3": 7, "mistral": 7, "gpt_neox": 4, "gpt2": 4}


@pytest.mark.parametrize("family", LINEARS)
def test_every_linear_of_every_block_is_found_and_nothing_else(family):
    model = random_model(family)
    found = prunable_weights(model)
    assert len(decoder_blocks(model)) == 2
    assert len(found) == 2 * LINEARS[family]
    assert found.keys() <= model.state_dict().keys()
    assert not [name for name in found if any(part in name for part in ("embed", "wte", "wpe", "head", "norm"))]
    assert coverage(model).share == 1.0


def test_a_view_of_a_transposed_layer_writes_the_weight():
    name, weight = next(iter(prunable_weights(random_model("gpt2")).items()))
    assert weight.transposed
    assert name.endswith("c_attn.weight")
    assert weight.value_OI.shape == (96, 32)
    weight.value_OI[:] = 0
    assert not weight.parameter.any()


def test_what_is_not_reached_is_refused_by_name():
    model = random_model("llama")
    model.model.layers[0].mlp.strange = nn.Parameter(torch.ones(64, 64))
    with pytest.raises(UserError, match=r"only \d+\.\d% .*at least 95%.*0\.mlp\.strange"):
        coverage(model).check()


def test_a_model_without_blocks_is_refused():
    with pytest.raises(UserError, match="no list of decoder blocks"):
        decoder_blocks(nn.Sequential(nn.Linear(2, 2)))


@pytest.mark.parametrize(
    ("include", "exclude", "kept"),
    [
        (["*.down_proj"], [], ["layers.0.mlp.down_proj", "layers.1.mlp.down_proj"]),
        (["*.down_proj.weight"], ["model.layers.1.*"], ["layers.0.mlp.down_proj"]),
        (None, ["model.layers.[01].mlp.*", "*.?_proj"], []),
        (["*.mlp.*"], ["*.gate_proj", "*.up_proj", "model.layers.0.*"], ["layers.1.mlp.down_proj"]),
    ],
)
def test_weights_are_chosen_by_globs_over_their_names(include, exclude, kept):
    model = random_model("llama")
    every = set(prunable_weights(model))
    if not kept:
        with pytest.raises(UserError, match=r"exclude=.*every prunable weight is left out"):
            choose(model, include, exclude)
        return
    choose(model, include, exclude)
    chosen = {f"model.{name}.weight" for name in kept}
    assert set(prunable_weights(model)) == chosen
    assert set(prunable_weights(copy.deepcopy(model))) == chosen
    assert len(weights_by_block(model)) == 2
    found = coverage(model)
    assert set(found.left_out) == every - chosen
    assert found.share == 1.0
    assert found.prunable + sum(found.left_out.values()) == found.total
    assert f"{len(every - chosen)} matrices" in str(found)
    found.check()
    assert found.of_all() == coverage(random_model("llama"))
    choose(model, None, [])
    assert set(prunable_weights(model)) == every


@pytest.mark.parametrize(
    ("glob", "meant"),
    [
        ("*.downproj", r"\*\.down_proj"),
        ("model.layer.0.*", r"model\.layers\.0\.\*"),
        ("*.mpl.*", r"\*\.mlp\.\*"),
        ("*.Down_proj", r"\*\.down_proj"),
    ],
)
@pytest.mark.parametrize("key", ["include", "exclude"])
def test_a_glob_that_matches_nothing_is_refused(key, glob, meant):
    given = {"include": None, "exclude": []} | {key: ["*.q_proj", glob]}
    with pytest.raises(UserError, match=f"^{key}=.*no prunable weight has such a name; did you mean '{meant}'"):
        choose(random_model("llama"), **given)
