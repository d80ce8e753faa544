"""Records of format 2 as records of today: committed results stay readable, and average with new ones."""

from typing import Any

_MOVED = {
    "elsa.admm.loop.": "elsa.train.budget.", "elsa.admm.training.": "elsa.train.budget.",
    "elsa.admm.precision.": "elsa.train.precision.", "elsa.evaluate.": "elsa.evaluation.",
}  # fmt: skip
_RENAMED = {"init": "start", "init_weights": "start_weights"}  # keys of Elsa+
_ADDED: dict[str, dict[str, Any]] = {  # knobs that came later, with the value that changes nothing
    "ElsaPlus": {
        "dual_step": 1.0, "dual_from": 0.0, "dual_limit": None, "warmup_fraction": 0.0, "least_density": 0.1,
        "hidden_distillation": 0.0,
    },
    "Training": {"distinct_windows": None, "fixed_order": False, "hidden_distillation": 0.0},
    "Text": {"held_out": 0.0, "column": "text"},
}  # fmt: skip
_NO_SETTINGS = {"probe_every", "activations", "device", "checkpoint", "plan"}  # once counted, without effect
_SCORES = ("perplexity", "zero_shot", "zero_shot_against_dense")


def upgraded(record: dict[str, Any]) -> dict[str, Any]:
    """What a record of format 2 or 3 would be today. It was looked at by `elsa.record.shape`."""
    if record.get("format") == 3:
        evaluations = [each | {"config": upgraded_config(each.get("config"))} for each in record.get("evaluations", [])]
        return record | {"config": upgraded_config(record.get("config")), "evaluations": evaluations}
    if record.get("format") != 2:
        return record
    kept = {key: value for key, value in record.items() if key not in _SCORES}
    scores = {key: record[key] for key in _SCORES if key in record}
    config = upgraded_config(record.get("config", {}))
    evaluation = {"key": None, "config": config.get("eval"), "seconds": record.get("seconds", {}).get("evaluate")}
    return kept | {
        "format": 3, "key": None, "config": config,
        "settings": _settings(record.get("settings", {})),
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
    if str(new.get("_target_", "")).endswith(".Perplexity"):
        new.setdefault("draw", "first")  # before there was a choice
    return new


def _settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what never changed a result: other keys then, and a penalty beside hard projections."""
    counted = {key: value for key, value in settings.items() if key not in _NO_SETTINGS}
    method = counted.get("method")
    if isinstance(method, dict) and method.get("hard"):
        counted.pop("penalty", None)
    typed: dict[str, Any] = _typed(counted)
    return typed


def _typed(settings: Any) -> Any:
    """Settings whose groups are named by their class alone."""
    if not isinstance(settings, dict):
        return settings
    new = {key: _typed(value) for key, value in upgraded_config(settings).items()}
    if "_target_" not in new:
        return new
    name = str(new.pop("_target_")).rpartition(".")[2]
    return {"type": name} | _ADDED.get(name, {}) | new
