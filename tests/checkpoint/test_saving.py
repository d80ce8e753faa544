from dataclasses import replace

import pytest
import torch
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


def test_a_failed_save_leaves_nothing(llama, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "save_pretrained", lambda self, folder: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(OSError, match="full"):
        save(llama, tokenizer, tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []
