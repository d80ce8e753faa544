"""Run folders are named by content: the same question is the same folder, two questions never share one.

There are two keys. What was pruned: model, data, the method with the groups that it reads, seed and code. How it was
scored: an evaluation with the content of its sets. A run holds its evaluations, so another one never prunes again.
"""

from pathlib import Path
from typing import Any

from elsa.config.prune import PruneConfig
from elsa.evaluation.base import Evaluation
from elsa.files import content_hash
from elsa.record.key import Key, described

_FEW = 6  # levels that are named one by one
_GROUPS = ("sparsity", "data", "seed", "training", "penalty", "precision")


def pruned_key(run: PruneConfig) -> Key:
    """What decides the pruned weights. Groups that the method does not read (a penalty for Wanda) do not count."""
    cache, model = Path(run.paths.cache), run.model
    question = _read_groups(run) | {
        "model": model.identity(cache) | {"dtype": model.dtype, "bos": model.begin_with_bos} | _choice(run),
        "method": described(run.method),
    }
    if run.method.uses_data:
        question["data"] = run.data.identity("train", cache) | {"length": run.data.length}
    things = [run.model, run.method, *(getattr(run, group) for group in sorted(run.method.reads))]
    return Key.of(question, things)


def evaluation_key(evaluation: Evaluation, cache: Path, other: dict[str, Any] | None = None) -> Key:
    """What decides the scores of given weights. `other`: how they are loaded, where that is not as they were saved."""
    return Key.of(evaluation.identity(cache) | (other or {}), evaluation)


def run_name(run: PruneConfig, key: Key) -> str:
    """`<model>-<method>-<sparsity>-<question>-<code>`."""
    return f"{_label(run)}-{key}"


def same_question(run: PruneConfig, key: Key) -> str:
    """A glob of the folders of this very question, whichever code answered it."""
    return f"{_label(run)}-{key.question}-*"


def _label(run: PruneConfig) -> str:
    parts = [run.model.name, run.method.label]
    if run.method.prunes:
        parts.append(run.sparsity.pattern.replace(":", "of") if run.sparsity.group else f"{run.sparsity.ratio:g}")
    return "-".join(parts)


def settings(run: PruneConfig) -> dict[str, Any]:
    """What a run shares with those of other seeds, patterns and models: its method and the groups that it reads.

    Runs are averaged over seeds only where these are equal.
    """
    shared = {group: value for group, value in _read_groups(run).items() if group not in ("seed", "sparsity")}
    return {"method": described(run.method)} | _choice(run) | _levels(run) | shared


def _choice(run: PruneConfig) -> dict[str, Any]:
    """What says which weights are pruned, if it is not all and some are."""
    given = {"include": run.model.include, "exclude": run.model.exclude} if run.method.prunes else {}
    return {key: value for key, value in given.items() if value}


def _levels(run: PruneConfig) -> dict[str, str]:
    """Sparsity by name, in words that fit a table."""
    levels = (run.sparsity.levels or {}) if run.method.prunes else {}
    said = ", ".join(f"{glob} {level:g}" for glob, level in levels.items())
    short = said if len(levels) <= _FEW else f"{len(levels)} of hash {content_hash(list(levels.items()), 8)}"
    return {"levels": short} if levels else {}


def _read_groups(run: PruneConfig) -> dict[str, Any]:
    found = {group: described(getattr(run, group)) for group in _GROUPS if group in run.method.reads}
    if "sparsity" in found:
        found["sparsity"] |= {"levels": list(map(list, (run.sparsity.levels or {}).items()))}  # their order counts
        found["sparsity"] = {key: value for key, value in found["sparsity"].items() if key != "levels" or value}
    return found
