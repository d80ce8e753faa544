"""Every method makes the patterns that it takes, to the last group."""

import pytest

from elsa.admm.penalty import Constant
from elsa.errors import UserError
from elsa.method.base import Task
from elsa.model.weights import prunable_weights
from elsa.sparsity.pattern import Pattern
from tests.conftest import random_model
from tests.method.methods import METHODS, PRECISION, TRAINING

COLUMNS = [(name, "gpt2") for name in ("sparsegpt", "elsa")]  # a family whose layers are stored as [I, O]


@pytest.mark.parametrize("pattern", ["paired_4:8", "transposable_2:4"])
@pytest.mark.parametrize(("name", "family"), [*((name, "llama") for name in METHODS if name != "dense"), *COLUMNS])
def test_every_group_has_the_pattern(name, family, pattern, windows):
    method, wanted, model = METHODS[name], Pattern(pattern=pattern, ratio=None), random_model(family)
    if name == "swaps":
        with pytest.raises(UserError, match="exchanges single weights"):
            method.check_pattern(wanted)
        return
    method.check_pattern(wanted)
    task = Task(
        pattern=wanted, training=TRAINING, penalty=Constant(value=0.1), precision=PRECISION,
        windows=lambda count: windows[:count],
    )  # fmt: skip
    method.apply(model, task)
    for key, weight in prunable_weights(model).items():
        keep, found = wanted.kept(weight.value_OI)
        assert found == keep, key
        assert int((weight.value_OI == 0).sum()) == weight.numel // 2, key
