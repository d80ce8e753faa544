"""Every method leaves alone what it is told to leave out."""

import pytest
import torch

from elsa.admm.penalty import Constant
from elsa.method.base import Task
from elsa.model.weights import choose, prunable_weights
from elsa.sparsity.pattern import Pattern
from tests.conftest import random_model
from tests.method.methods import METHODS, PRECISION, TRAINING

HALF = Pattern(pattern="unstructured", ratio=0.5)


@pytest.mark.parametrize("name", [name for name in METHODS if name != "dense"])
def test_only_the_chosen_weights_are_pruned(name, windows):
    """Block 0 has none of them, and block 1 some: a feed-forward part, which SparseLLM takes whole, and one more."""
    model, method = random_model("llama"), METHODS[name]
    every = prunable_weights(model)
    before = {key: weight.value_OI.clone() for key, weight in every.items()}
    choose(model, ["model.layers.1.*"], ["*.[vko]_proj"])
    task = Task(
        pattern=HALF, training=TRAINING, penalty=Constant(value=0.1), precision=PRECISION,
        windows=lambda count: windows[:count],
    )  # fmt: skip
    method.apply(model, task)
    chosen = prunable_weights(model)
    assert len(chosen) == 4
    for key, weight in every.items():
        zeros = int((weight.value_OI == 0).sum())
        assert zeros == (weight.numel // 2 if key in chosen else 0), key
        if not (method.trains or key in chosen):
            assert torch.equal(weight.value_OI, before[key])
