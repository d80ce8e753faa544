"""Records of format 2 as records of today: committed results stay readable, and average with new ones."""

from typing import Any

_MOVED = {
    "elsa.admm.training.": "elsa.train.budget.", "elsa.admm.precision.": "elsa.train.precision.",
    "elsa.evaluate.": "elsa.evaluation.",
}  # fmt: skip
_RENAMED = {"init": "start", "init_weights": "start_weights"}  # keys of Elsa+
_NO_SETTINGS = {"probe_every", "activations", "device", "checkpoint", "plan"}  # once counted, without effect
_SCORES = ("perplexity", "zero_shot", "zero_shot_against_dense")


def upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """`record`, or what a record of format 2 would be today."""
    if record.get("format") != 2:
        return record
    kept = {key: value for key, value in record.items() if key not in _SCORES}
    scores = {key: record[key] for key in _SCORES if key in record}
    config = upgraded_config(record.get("config", {}))
    evaluation = {"key": None, "config": config.get("eval"), "seconds": record.get("seconds", {}).get("evaluate")}
    return kept | {
        "format": 3, "key": None, "config": config,
        "settings": _typed({k: v for k, v in record.get("settings", {}).items() if k not in _NO_SETTINGS}),
        "evaluations": [evaluation | scores],
    }  # fmt: skip


def upgraded_config(config: Any) -> Any:
    """A resolved config with the classes and keys of today."""
    if isinstance(config, list):
        return [upgraded_config(each) for each in config]
    if not isinstance(config, dict):
        return config
    renamed = _RENAMED if str(config.get("_target_", "")).endswith(".ElsaPlus") else {}
    new = {renamed.get(key, key): upgraded_config(value) for key, value in config.items()}
    for before, now in _MOVED.items():
        if str(new.get("_target_", "")).startswith(before):
            new["_target_"] = now + new["_target_"].removeprefix(before)
    return new


def _typed(settings: Any) -> Any:
    """Settings whose groups are named by their class alone."""
    if not isinstance(settings, dict):
        return settings
    new = {key: _typed(value) for key, value in upgraded_config(settings).items()}
    return {"type": new.pop("_target_").rpartition(".")[2]} | new if "_target_" in new else new
