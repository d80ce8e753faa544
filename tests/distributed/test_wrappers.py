"""A decoder in a wrapper, and blocks that share weights, on several ranks."""

from tests import conftest
from tests.distributed.test_training import PATTERNS, digest, trained
from tests.ranks import on_ranks
from tests.wrappers import MIXED_CONFIGS, NEW, WRAPPER_CONFIGS

CASES = [("auto", PATTERNS["90 %"], "gemma3"), ("finetuned", PATTERNS["2:4"], "gemma3")]
CASES += [("auto", PATTERNS["90 %"], "zamba2")] if NEW else []


def _digests(ranks):
    conftest.CONFIGS.update(WRAPPER_CONFIGS | MIXED_CONFIGS)
    found = [trained(ranks, *case)[0] for case in CASES]
    return [digest(state) for state in found] if ranks.first else None


def test_several_ranks_give_the_bits_of_one():
    (expected,) = on_ranks(1, _digests)
    assert on_ranks(2, _digests)[0] == expected
