"""Decoders in wrappers, blocks that share weights, and mixers: found, counted, loaded, saved whole."""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

from elsa.checkpoint.saving import count_zeros, save
from elsa.errors import UserError
from elsa.model.loading import Pretrained, limits
from elsa.model.weights import beside_text, coverage, prunable_weights, shared_by_blocks, text_part
from elsa.train.loss import evaluating
from elsa.train.precision import Precision
from elsa.train.train import trainable
from tests.conftest import random_model
from tests.wrappers import MIXED_CONFIGS, WRAPPER_CONFIGS, needs_new, other_model

MATRICES = {"zamba2": 32, "jamba": 14, "bamba": 12, "falcon_h1": 18, "nemotron_h": 8, "qwen3_next": 13}
REST = {"jamba": ["mamba.A_log", "mamba.conv1d.weight"], "nemotron_h": ["mixer.conv1d.weight"]}
REST |= {"qwen3_next": ["linear_attn.conv1d.weight"]}
REST |= {"zamba2": ["mamba.conv1d.weight", "mamba_decoder.mamba.conv1d.weight"]}
IDS = torch.arange(32).view(2, 16) + 10


def source(folder):
    return Pretrained(name="m", path=str(folder))


@pytest.fixture(params=[*WRAPPER_CONFIGS, *MIXED_CONFIGS])
def family(request):
    return request.param


def test_all_linear_layers_of_the_decoder_are_found_and_the_rest_is_named(family):
    model = other_model(family)
    found, covered = prunable_weights(model), coverage(model)
    assert covered.share >= 0.95
    assert len(found) == MATRICES.get(family, 14)
    assert sum(weight.numel for weight in found.values()) == covered.prunable
    assert len({id(weight.parameter) for weight in found.values()}) == len(found)
    if family in WRAPPER_CONFIGS:
        assert all(name.startswith("model.language_model.layers.") for name in found)
        assert "rest" not in str(covered)
    else:
        rest = REST.get(family, ["mamba.conv1d.weight"])
        assert str(covered).endswith(f"; the rest is {', '.join(rest)}")
        assert {name.partition(".")[2] for name in covered.facts()["unreached"]} == set(rest)


def test_what_is_saved_loads_in_plain_transformers_with_the_same_logits(family, tokenizer, tmp_path):
    model = other_model(family)
    for number, weight in enumerate(prunable_weights(model).values()):
        weight.value_OI[:, : 1 + number % 3] = 0
    save(model, tokenizer, tmp_path / "m")
    counts = count_zeros(tmp_path / "m", list(prunable_weights(model)))
    for number, (name, weight) in enumerate(prunable_weights(model).items()):
        assert counts[name] == {"zeros": weight.shape_OI[0] * (1 + number % 3), "numel": weight.numel}, name
    auto = AutoModelForImageTextToText if family in WRAPPER_CONFIGS else AutoModelForCausalLM
    plain, (ours, _) = auto.from_pretrained(tmp_path / "m").eval(), source(tmp_path / "m").load(tmp_path, "cpu")
    assert type(plain) is type(ours) is type(model)
    with torch.no_grad():
        logits = [each(input_ids=IDS, use_cache=False).logits for each in (model, plain, ours)]
    assert torch.equal(logits[0], logits[1])
    assert torch.equal(logits[0], logits[2])
    skeleton = source(tmp_path / "m").skeleton(tmp_path)
    assert prunable_weights(skeleton).keys() == prunable_weights(model).keys()
    assert coverage(skeleton) == coverage(model)


@pytest.mark.parametrize("family", WRAPPER_CONFIGS)
def test_of_a_wrapper_text_reaches_the_decoder_and_the_head_alone(family):
    model = other_model(family)
    apart = beside_text(model)
    model(input_ids=IDS, use_cache=False).logits.square().mean().backward()
    without = {id(parameter) for parameter in model.parameters() if parameter.grad is None}
    assert apart
    assert apart == without
    assert {id(parameter) for parameter in trainable(model).values()} == set(map(id, model.parameters())) - apart
    assert text_part(model) is model.model.language_model
    with Precision().applied(model):
        with evaluating(model):
            assert not model.model.language_model.training
        assert model.model.language_model.training
        assert not model.training, "an older Gemma 3 wants to know of pictures in training"
    assert not model.model.language_model.training
    assert limits(model) == {"vocabulary": 300, "positions": 64}


@pytest.mark.parametrize("family", ["llama", "opt", "gpt2"])
def test_of_a_decoder_alone_text_reaches_all(family):
    model = random_model(family)
    assert beside_text(model) == set()
    assert text_part(model) is model


def test_files_of_processors_go_along(tokenizer, tmp_path):
    save(other_model("llava"), tokenizer, tmp_path / "m")
    assert source(tmp_path / "m").companions(tmp_path) == []
    for name in ("preprocessor_config.json", "processor_config.json", "chat_template.json"):
        (tmp_path / "m" / name).write_text(json.dumps({"of": name}))
    given = source(tmp_path / "m")
    save(*given.load(tmp_path, "cpu"), tmp_path / "again", companions=given.companions(tmp_path))
    names = [path.name for path in given.companions(tmp_path / "m")]
    assert names == ["preprocessor_config.json", "processor_config.json", "chat_template.json"]
    assert all((tmp_path / "again" / name).read_bytes() == (tmp_path / "m" / name).read_bytes() for name in names)
    before, after = (load_file(tmp_path / each / "model.safetensors") for each in ("m", "again"))
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_files_of_processors_of_the_hub_are_not_there_without_it(tmp_path):
    given = Pretrained(name="m", path="facebook/opt-125m", revision="27dcfa74d334bc871f3234de431e71c6eeba5dd6")
    assert given.companions(tmp_path) == []


@needs_new
def test_weights_that_blocks_share_are_told_with_their_places():
    model = other_model("zamba2")
    shared = shared_by_blocks(model)
    assert set(map(tuple, shared.values())) == {(1, 3)}
    assert all("layers.1.shared_transformer" in name for name in shared)
    assert len(shared) == 6 + 16
    assert shared_by_blocks(other_model("jamba")) == {}


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("blip", r"blip does not run on text alone \(it wants pixel_values\)"),
        ("blip-2", r"blip-2 does not run on text alone|blip-2 is no decoder"),
        ("florence2", "florence2 is no decoder"),
        ("udop", "udop is no decoder"),
    ],
)
def test_a_wrapper_that_is_no_decoder_with_towers_is_refused(tmp_path, kind, line):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(UserError, match=f"model=m: {line}"):
        source(tmp_path).structure(tmp_path)
