"""Predicted bytes of models with experts, whose tokens nobody can send on fake tensors."""

import pytest
import torch

from elsa.model.weights import prunable_weights, without_head
from elsa.plan.memory import measure
from tests.experts import MOE_CONFIGS, moe_model
from tests.method.methods import TRAINING


def kept(model, ids):
    """Bytes of the storages that autograd keeps beside the parameters."""
    seen, alive = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in seen:
            seen.add(storage.data_ptr())
            alive.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        without_head(model)(input_ids=ids, use_cache=False)
    return sum(tensor.untyped_storage().nbytes() for tensor in alive)


@pytest.mark.parametrize("family", ["mixtral", "gpt_oss", "llama4", "deepseek_v3"])
@pytest.mark.parametrize("autocast", ["none", "bfloat16"])
def test_activations_are_those_of_the_experts_that_are_chosen(family, autocast, windows):
    training = TRAINING.__class__(steps=6, batch_size=4, learning_rate=1e-3, autocast=autocast)
    model = moe_model(family)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast != "none"):
        found = kept(model, windows[:4].long())
    shape = measure(MOE_CONFIGS[family], training, "float32", 16)
    assert shape.activations == pytest.approx(found, rel=0.1)
    assert shape.prunable == sum(weight.numel for weight in prunable_weights(model).values())
    assert shape.matrix == max(weight.numel for weight in prunable_weights(model).values())
    assert shape.largest == max(parameter.numel() for parameter in model.parameters())


def test_a_token_pays_for_the_experts_that_it_is_sent_to():
    few, many = (
        measure(_with(MOE_CONFIGS["mixtral"], num_experts_per_tok=count), TRAINING, "float32", 16).activations
        for count in (1, 3)
    )
    assert many > 1.5 * few


def _with(config, **changes):
    return type(config)(**{key: value for key, value in config.to_dict().items() if key != "model_type"} | changes)
