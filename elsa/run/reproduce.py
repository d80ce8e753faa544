"""`elsa reproduce record=<record>`: run it again as it was, and say whether the bits are the same or what differs."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from elsa import hub
from elsa.config.build import build
from elsa.config.checks import check_prune
from elsa.config.commands import ReproduceConfig
from elsa.config.compose import plain
from elsa.config.prune import PruneConfig
from elsa.errors import UserError, did_you_mean
from elsa.files import read_text
from elsa.method.dense import Dense
from elsa.record.environment import differences, environment
from elsa.record.record import Record, parsed, read_records, scored
from elsa.record.scores import MEASURES, TASK_SCORES
from elsa.run.job import dense_of, run_alone

_FRESH = {  # keys that a record may lack, and that decide no number of it
    "device": "auto", "activations": "auto", "checkpoint": {}, "probe_every": 0, "reuse": "same_code", "plan": {},
    "tracker": {"_target_": "elsa.track.jsonl.Jsonl"}, "penalty": {"_target_": "elsa.admm.penalty.Auto"},
    "precision": {"_target_": "elsa.train.precision.Precision"},
}  # fmt: skip


def reproduce(composed: DictConfig) -> None:
    """Print each number beside that of the record. Raises `UserError` if one has another bit."""
    asked = build(ReproduceConfig, plain(composed))
    hub.use_mirror(asked.paths.mirror)
    record = _found(asked.record)
    threads = asked.threads or record["environment"].get("threads")
    if threads is not None:
        torch.set_num_threads(threads)
    outputs = str(Path(asked.paths.outputs) / "reproductions")
    again = _run(record, dataclasses.asdict(asked.paths) | {"outputs": outputs}, f"record={asked.record}")
    _compare(scored(record, record["evaluations"][0]), again)


def _run(record: Record, paths: dict[str, Any], where: str) -> Record:
    """The same run anew; for scores by tasks the dense model's too, which they are paired with."""
    if record["method"] == "checkpoint":
        raise UserError(f"{where}: it scored a folder that no run left, so there is no run to do again")
    evaluation, config = record["evaluations"][0], config_of(record, paths)
    try:
        run = build(PruneConfig, config)
    except UserError as error:
        raise UserError(f"{where}: its config is none of this version: {error}") from error
    covered, dense = check_prune(run), None
    if evaluation.keys() & set(TASK_SCORES) and not isinstance(run.method, Dense):
        dense = run_alone(*dense_of(run, config), covered.of_all(), None)
    return run_alone(run, config, covered, dense).record


def config_of(record: Record, paths: dict[str, Any]) -> dict[str, Any]:
    """That of the same run in one process, with its first evaluation."""
    here = {"paths": paths, "eval": record["evaluations"][0]["config"], "devices": None, "plan": {}}
    config: dict[str, Any] = _FRESH | record["config"] | here
    return config


def _found(where: str) -> Record:
    """The record of a file, a folder, or a line of a JSONL file by number or by the run's name."""
    name, line = where.rsplit(":", 1) if ".jsonl:" in where else (where, "")
    path = Path(name) / "result.json" if Path(name).is_dir() else Path(name)
    if not path.is_file():
        raise UserError(f"record={where}: no such file; give a result.json, its folder, or a .jsonl:<line or name>")
    if path.suffix != ".jsonl":
        return parsed(read_text(path), f"record={where}")
    records = read_records(path)
    by_name = {record["name"]: record for record in records} | {str(n): each for n, each in enumerate(records, 1)}
    if line not in by_name:
        hint = did_you_mean(line, [record["name"] for record in records])
        raise UserError(f"record={where}: name one of its lines 1 to {len(records)}, or a run; {hint}")
    return by_name[line]


def _compare(record: Record, again: Record) -> None:
    """Print what is equal and what is not, with what else was different."""
    before, now = _numbers(record), _numbers(again)
    for name, value in now.items():
        same = "the same" if value == before.get(name) else f"the record has {before.get(name, 'none')}"
        print(f"{name}: {value}, {same}")
    if all(now.get(name) == value for name, value in before.items()):
        print("the same bits")
        return
    reasons = [f"the data {key} are others" for key, value in record.get("data_sha256", {}).items()
               if again["data_sha256"].get(key) != value]  # fmt: skip
    if (devices := record.get("devices", 1)) != 1:
        reasons.append(f"devices was {devices} and is 1")
    reasons += differences(record["environment"], environment(again["device"]))
    raise UserError(f"reproduce: the bits differ; {'; '.join(reasons) or 'nothing that is recorded explains it'}")


def _numbers(record: Record) -> dict[str, Any]:
    """What must be equal to the last bit, by name."""
    found: dict[str, Any] = {f"perplexity {name}": each["perplexity"] for name, each in record["perplexity"].items()}
    for task, scores in (item for kind in TASK_SCORES for item in record.get(kind, {}).get("tasks", {}).items()):
        found |= {f"{name} {task}": scores[name] for name in ("acc", *MEASURES) if name in scores}
    found |= {f"weights {name}": value for name, value in record.get("weights_sha256", {}).items()}
    return found | {"zeros": record["sparsity"]["zeros"]}
