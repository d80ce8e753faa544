"""Exported folders of models with experts."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from elsa.errors import UserError
from elsa.export.quantizer import sparse_layers
from elsa.export.stored import WEIGHTS, Stored
from elsa.export.writing import Dense, Sparse
from elsa.model.weights import prunable_weights
from tests.experts import moe_model
from tests.export.test_folder import DTYPES, exported, hashes, logits, name_of, with_zeros  # noqa: F401

FAMILIES = ["mixtral", "gpt_oss"]


def pruned(family, share=0.2):
    model = moe_model(family)
    for number, weight in enumerate(prunable_weights(model).values()):
        generator = torch.Generator().manual_seed(number)
        weight.write(weight.value_OI * (torch.rand(weight.shape_OI, generator=generator) < share))
    return model


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", FAMILIES)
def test_each_expert_is_stored_sparse_and_plain_transformers_loads_the_same_logits(exported, family, dtype):  # noqa: F811
    model = pruned(family)
    weights = prunable_weights(model)
    folder = exported(model, Sparse(dtype=dtype))
    facts = json.loads((folder / "export.json").read_text())
    assert facts["matrices"].keys() == weights.keys()
    assert facts["ratio"]["matrices_of_dense"] < 0.55
    assert facts["zeros"]["numel"] == sum(weight.numel for weight in weights.values())
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    linear = [weight for weight in weights.values() if weight.expert is None]
    assert len(sparse_layers(loaded)) == len(linear)
    plain = with_zeros(folder, name_of(loaded.dtype))
    experts = {name: weight for name, weight in prunable_weights(loaded).items() if weight.expert is not None}
    assert len(experts) == len(weights) - len(linear)
    wanted = prunable_weights(plain)
    assert all(torch.equal(weight.value_OI, wanted[name].value_OI) for name, weight in experts.items())
    if dtype == "float32":
        assert all(torch.equal(weight.value_OI, weights[name].value_OI) for name, weight in experts.items())
    assert torch.allclose(logits(loaded).float(), logits(plain).float(), rtol=1e-2, atol=1e-2)
    loaded.save_pretrained(folder.parent / "again")
    if (family, dtype) != ("gpt_oss", "float16"):  # whose norms transformers holds in float32
        assert hashes(folder.parent / "again") == hashes(folder)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder.parent / "again")), logits(loaded))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_dense_export_is_a_plain_folder_with_counts_of_each_expert(exported, family):  # noqa: F811
    model = pruned(family)
    folder = exported(model, Dense(dtype="float32"))
    facts = json.loads((folder / "export.json").read_text())
    assert facts["matrices"].keys() == prunable_weights(model).keys()
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(folder)), logits(model))


def broken(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config["quantization_config"]["modules"])
    (folder / "config.json").write_text(json.dumps(config))
    return folder


FIRST = "model.layers.0.mlp.experts.gate_up_proj"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda modules: modules.pop(f"{FIRST}[1]"), r"experts \[0, 2, 3\], of which some are missing"),
        (lambda modules: modules[f"{FIRST}[1]"].update(transposed=True), "have different shapes"),
    ],
)
def test_experts_that_do_not_fit_together_are_refused(exported, change, said):  # noqa: F811
    folder = broken(exported(pruned("mixtral"), Sparse(dtype="float32")), change)
    with pytest.raises(UserError, match=said):
        _ = Stored(folder).shapes


def test_a_changed_expert_is_noticed(exported):  # noqa: F811
    folder = exported(pruned("mixtral"), Sparse(dtype="float32"))
    tensors = load_file(folder / WEIGHTS)
    tensors[f"{FIRST}[2]_values"][0] += 1
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"gate_up_proj\[2\] is not as it was written"):
        Stored(folder).tensor(FIRST)
