"""A decoder in a wrapper, and blocks that share weights, on several ranks."""

import torch

from tests import conftest
from tests.distributed.test_training import PATTERNS, trained
from tests.ranks import on_ranks
from tests.wrappers import MIXED_CONFIGS, NEW, WRAPPER_CONFIGS

CASES = [("finetuned", PATTERNS["2:4"], "gemma3")] + ([("auto", PATTERNS["90 %"], "zamba2")] if NEW else [])


def _states(ranks):
    conftest.CONFIGS.update(WRAPPER_CONFIGS | MIXED_CONFIGS)
    found = [trained(ranks, *case)[0] for case in CASES]
    return [{name: tensor.clone() for name, tensor in state.items()} for state in found] if ranks.first else None


def test_several_ranks_give_what_one_gives():
    (expected,), found = on_ranks(1, _states), on_ranks(2, _states)[0]
    for one, two in zip(expected, found, strict=True):
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-8, msg=name)  # norms of queries: not all bits
            assert torch.equal(two[name] == 0, tensor == 0), name
