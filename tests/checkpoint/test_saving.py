from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from elsa.checkpoint.saving import check_pattern, count_zeros, save
from elsa.errors import UserError
from elsa.model.weights import prunable_weights
from elsa.sparsity.pattern import Pattern
from tests.conftest import random_model


@pytest.mark.parametrize("family", ["llama", "opt", "gemma2", "qwen3", "gpt2"])
def test_plain_transformers_loads_what_was_saved_and_the_count_is_that_of_the_file(family, tokenizer, tmp_path):
    model = random_model(family)
    weights = prunable_weights(model)
    for number, weight in enumerate(weights.values()):
        weight.value_OI[: number % 3 + 1] = 0
    save(model, tokenizer, tmp_path / "saved")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())
    assert (
        AutoTokenizer.from_pretrained(tmp_path / "saved")("the cat")["input_ids"] == tokenizer("the cat")["input_ids"]
    )
    counts = count_zeros(tmp_path / "saved", list(weights))
    assert counts == {
        name: {"zeros": int((weight.parameter == 0).sum()), "numel": weight.parameter.numel()}
        for name, weight in weights.items()
    }


@pytest.mark.parametrize("pattern", [Pattern(pattern="unstructured", ratio=0.5), Pattern(pattern="2:4", ratio=None)])
def test_a_checkpoint_that_misses_its_pattern_is_refused(llama, tokenizer, tmp_path, pattern):
    weights = prunable_weights(llama)
    for weight in weights.values():
        weight.value_OI.mul_(pattern.mask(weight.value_OI.abs()))
    transposed = dict.fromkeys(weights, False)
    save(llama, tokenizer, tmp_path / "good")
    check_pattern(tmp_path / "good", transposed, pattern)
    next(iter(weights.values())).value_OI[:8] = 1.0
    save(llama, tokenizer, tmp_path / "bad")
    with pytest.raises(UserError, match=r"q_proj\.weight misses pattern"):
        check_pattern(tmp_path / "bad", transposed, pattern)


def test_weights_that_share_a_budget_are_counted_together(llama, tokenizer, tmp_path):
    weights = prunable_weights(llama)
    for number, weight in enumerate(weights.values()):
        weight.value_OI.mul_(number % 2)
    transposed, zeros = dict.fromkeys(weights, False), sum(int((w.value_OI == 0).sum()) for w in weights.values())
    save(llama, tokenizer, tmp_path)
    ratio = zeros / sum(w.value_OI.numel() for w in weights.values())
    budget = Pattern(pattern="unstructured", ratio=ratio, allocation="global")
    check_pattern(tmp_path, transposed, budget)
    with pytest.raises(UserError, match=r"_proj\.weight misses pattern"):
        check_pattern(tmp_path, transposed, Pattern(pattern="unstructured", ratio=ratio))
    with pytest.raises(UserError, match=rf"wanted \d+ zeros, found {zeros}"):
        check_pattern(tmp_path, transposed, replace(budget, ratio=ratio + 0.1))


def saved(folder, weight_OI, transposed):
    folder.mkdir(exist_ok=True)
    save_file({"weight": (weight_OI.t() if transposed else weight_OI).contiguous()}, folder / "model.safetensors")
    return folder


def with_zeros(count):
    """6 outputs of 20 inputs, `count` of the 120 entries zero."""
    return (torch.arange(120) >= count).float().view(6, 20)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("allocation", ["uniform", "global"])
def test_a_weight_may_miss_one_zero_an_output_and_no_more(tmp_path, transposed, allocation):
    half = Pattern(pattern="unstructured", ratio=0.5, allocation=allocation)
    check_pattern(saved(tmp_path, with_zeros(60 - 6), transposed), {"weight": transposed}, half)
    with pytest.raises(UserError, match=r"wanted 54( zeros)?, found 53"):
        check_pattern(saved(tmp_path, with_zeros(60 - 7), transposed), {"weight": transposed}, half)


@pytest.mark.parametrize("transposed", [False, True])
def test_groups_are_looked_for_along_the_inputs_and_may_miss_no_zero(tmp_path, transposed):
    two_of_four = Pattern(pattern="2:4", ratio=None)
    weight_OI = torch.tensor([[1.0, 0.0, 0.0, 1.0], [0.0, 1.0, 1.0, 0.0]]).repeat(4, 2)
    check_pattern(saved(tmp_path, weight_OI, transposed), {"weight": transposed}, two_of_four)
    along_outputs = torch.tensor([[1.0], [1.0], [0.0], [0.0]]).repeat(2, 8)
    one_too_many = weight_OI.clone()
    one_too_many[5, 4] = 1.0
    for wrong, found in ((along_outputs, 4), (one_too_many, 3)):
        with pytest.raises(UserError, match=f"wanted 2, found {found}"):
            check_pattern(saved(tmp_path, wrong, transposed), {"weight": transposed}, two_of_four)


def test_zeros_are_counted_in_every_file_of_a_folder_negative_and_bf16_ones_too(tmp_path):
    save_file({"a": torch.tensor([0.0, -0.0, 1.0]), "bias": torch.zeros(9)}, tmp_path / "model-1.safetensors")
    save_file({"b": torch.tensor([[0.0, 1e-30]]).bfloat16()}, tmp_path / "model-2.safetensors")
    assert count_zeros(tmp_path, ["b", "a"]) == {"b": {"zeros": 1, "numel": 2}, "a": {"zeros": 2, "numel": 3}}


def test_a_failed_save_leaves_nothing(llama, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "save_pretrained", lambda self, folder: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save(llama, tokenizer, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []
