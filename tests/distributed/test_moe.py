"""Experts on several ranks: every expert's rows are spread, and its tokens are those of all."""

from dataclasses import replace

import pytest
import torch

from elsa.distributed.ranks import ONE
from elsa.errors import UserError
from elsa.method.base import Task
from elsa.method.sparsegpt import SparseGPT
from elsa.method.wanda import Wanda
from elsa.model.weights import prunable_weights
from tests import conftest
from tests.distributed.test_training import PATTERNS, PRECISIONS, TRAINING, _goes_on, digest, trained
from tests.experts import MOE_CONFIGS, moe_model
from tests.method.methods import PRECISION
from tests.ranks import on_ranks

CASES = [
    ("auto", PATTERNS["90 %"], "mixtral"), ("cosine", PATTERNS["2:4"], "gpt_oss"),
    ("elsa_plus", PATTERNS["global"], "gpt_oss"), ("finetuned", PATTERNS["90 %"], "llama4"),
]  # fmt: skip


def _digests(ranks):
    conftest.CONFIGS.update(MOE_CONFIGS)
    found = [trained(ranks, *case)[0] for case in CASES]
    return [digest(state) for state in found] if ranks.first else None


def test_several_ranks_give_the_bits_of_one():
    (expected,) = on_ranks(1, _digests)
    assert on_ranks(2, _digests)[0] == expected


def _continued(ranks, *arguments):
    conftest.CONFIGS.update(MOE_CONFIGS)
    return _goes_on(ranks, *arguments)


def test_a_run_goes_on_with_another_number_of_ranks(tmp_path):
    given = ("auto", PRECISIONS["fp8 state"], "gpt_oss")
    (expected,) = on_ranks(1, _continued, tmp_path / "whole", None, *given)
    for size, stop in ((2, 3), (1, 5), (2, None)):
        found = on_ranks(size, _continued, tmp_path / "parts", stop, *given)[0]
    assert found == expected


def _pruned(ranks, family, method):
    model = moe_model(family)
    windows = torch.randint(0, 300, (24, 16), generator=torch.Generator().manual_seed(1)).int()
    task = Task(
        pattern=PATTERNS["2:4"], training=replace(TRAINING, fixed_order=False), precision=PRECISION, ranks=ranks,
        windows=lambda count: windows[:count],
    )  # fmt: skip
    facts = method.apply(model, task)
    return model.state_dict(), facts


@pytest.mark.parametrize(
    ("family", "method"),
    [
        ("mixtral", Wanda(calibration_windows=24)),
        ("gpt_oss", SparseGPT(calibration_windows=24, few_tokens="all_tokens")),
    ],
    ids=["wanda", "sparsegpt"],
)
def test_layer_wise_methods_share_windows_and_experts(family, method):
    expected, facts = _pruned(ONE, family, method)
    found = on_ranks(2, _pruned, family, method)
    for _, its_facts in found:
        assert its_facts["expert_tokens"].keys() == facts["expert_tokens"].keys()
        for name, tokens in facts["expert_tokens"].items():  # another mask before a block moves few tokens
            assert abs(its_facts["expert_tokens"][name] - tokens) <= 4
    for name, tensor in found[0][0].items():
        assert torch.equal(tensor, found[1][0][name]), name
    names = {weight.parameter_name for weight in prunable_weights(moe_model(family)).values()}
    for name in names:
        same = (found[0][0][name] != 0) == (expected[name] != 0)
        assert same.float().mean() > 0.98, name


THREE = replace(TRAINING, fixed_order=False, batch_size=6, accumulation=1)


def _uneven(ranks):
    conftest.CONFIGS.update(MOE_CONFIGS)
    with pytest.raises(UserError, match=r"^devices=3: \S+proj has \d+ outputs, not as rows"):
        trained(ranks, "auto", PATTERNS["90 %"], "gpt_oss", training=THREE)
    return True


def test_experts_that_cannot_be_spread_evenly_are_refused():
    assert all(on_ranks(3, _uneven))
