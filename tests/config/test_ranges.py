"""Every number of every choice of every group, with values that no run can have."""

import copy
import math

import pytest

from elsa.config.build import build
from elsa.config.checks import _settings
from elsa.config.choices import choices
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.errors import UserError

GROUPS = ("method", "data", "sparsity", "training", "penalty", "precision", "eval", "tracker")
ALONE = ("seed", "probe_every", "checkpoint", "plan")
NEEDED = {
    "data=tokens": ["data.path=ids.safetensors"],
    "data=hub": ["data.name=owner/set"],
    "data=hub_chat": ["data.name=owner/set"],
    "penalty": ["method=elsa"],
    "sparsity=n_of_m": ["sparsity.pattern=2:4"],
}


def numbers(node, path=()):
    """Paths of all numbers in a config."""
    if isinstance(node, dict):
        for key, value in node.items():
            yield from numbers(value, (*path, key))
    elif isinstance(node, int | float) and not isinstance(node, bool):
        yield path


def with_value(config, path, value):
    changed = copy.deepcopy(config)
    node = changed
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value
    return changed


def checked(config):
    run = build(PruneConfig, config)
    run.method.check(run.training)
    _settings(run)


@pytest.mark.parametrize("group", [*GROUPS, ""])
def test_no_number_may_be_negative_nan_or_infinite(group):
    accepted = []
    for choice in choices(group) if group else [""]:
        given = [f"{group}={choice}", *NEEDED.get(group, []), *NEEDED.get(f"{group}={choice}", [])] if group else []
        config = compose(*given)
        checked(config)
        for path in numbers(config):
            if path[0] not in ((group,) if group else ALONE):
                continue
            for wrong in (-1, -0.5, math.nan, math.inf, -math.inf, 2**63, 1e39, "many", [1]):
                try:
                    checked(with_value(config, path, wrong))
                    accepted.append(f"{choice}: {'.'.join(path)}={wrong}")
                except UserError as error:
                    assert path[-1] in str(error), f"{'.'.join(path)}={wrong}: {error}"  # noqa: PT017
    assert accepted == []
