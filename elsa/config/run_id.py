"""Run folders are named by content: the same question is the same folder, two questions never share one."""

from typing import Any

import elsa
from elsa.config.prune import PruneConfig
from elsa.files import content_hash

_NOT_SCIENCE = {"paths", "tracker", "device", "activations", "checkpoint", "plan"}


def run_name(run: PruneConfig, config: dict) -> str:
    """`<model>-<method>-<sparsity>-<hash>`; the hash covers every key that can change the result.

    `config` is the resolved config of `run`. Groups that the method does not read (a penalty for Wanda, a sparsity for
    the dense model) do not count, so that they never cause the same work twice.
    """
    science = _science(run, config)
    science["model"] = run.model.identity() | {"dtype": run.model.dtype, "bos": run.model.begin_with_bos}
    science["version"] = elsa.__version__
    parts = [run.model.name, run.method.label]
    if run.method.prunes:
        parts.append(run.sparsity.pattern.replace(":", "of") if run.sparsity.group else f"{run.sparsity.ratio:g}")
    return "-".join([*parts, content_hash(science)])


def settings(run: PruneConfig, config: dict) -> dict:
    """What a run shares with those of other seeds, patterns and models: its method's own keys and the groups it reads.

    Runs are averaged over seeds only where these are equal.
    """
    apart = {"model", "sparsity", "seed", "eval"}
    return {key: value for key, value in _science(run, config).items() if key not in apart}


def _science(run: PruneConfig, config: dict) -> dict:
    unread = {"sparsity", "data", "seed", "training", "penalty", "precision"} - set(run.method.reads)
    return {key: _typed(getattr(run, key), value) for key, value in config.items() if key not in _NOT_SCIENCE | unread}


def _typed(built: Any, given: Any) -> Any:
    """`given` with its numbers as the object that was built of it has them: 1 and 1.0 are the same question."""
    if isinstance(given, dict):
        fields = built if isinstance(built, dict) else vars(built)
        return {key: _typed(fields.get(key), value) for key, value in given.items()}
    return built if isinstance(built, float) else given
