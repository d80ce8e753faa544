"""`elsa evaluate checkpoint=<folder>`: score a saved model. If it is that of a run, its record and its tracker (so the
very run at Weights & Biases) get the scores too, whatever has pruned it and wherever.
"""

from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig
from transformers import PreTrainedModel

from elsa import hub
from elsa.config.build import build
from elsa.config.checks import check_evaluate
from elsa.config.compose import plain
from elsa.config.identity import evaluation_key
from elsa.config.prune import EvaluateConfig, Tracked, resolved_device
from elsa.data.windows import WindowReader
from elsa.distributed.ranks import ONE, Ranks
from elsa.evaluation.base import Subject, summary_of
from elsa.export.stored import Stored
from elsa.files import content_hash, file_hash, file_name
from elsa.model.loading import Pretrained, limits
from elsa.model.weights import prunable_weights
from elsa.record.environment import environment
from elsa.record.record import Record, evaluation_of, read_record, scored, write_record
from elsa.report.table import print_task_tables, score_tables
from elsa.run.job import Finished, alone
from elsa.run.shared import joined, launched
from elsa.track import Outcome, TrackedRun


def evaluate(composed: DictConfig) -> None:
    """Score and print."""
    config = plain(composed)
    run = build(EvaluateConfig, config)
    hub.use_mirror(run.paths.mirror)
    if launched(run, "evaluate"):
        return
    with joined(run) as ranks:
        finished = score(run, config, ranks)
        if ranks.first:
            _print(finished.record)
            print(f"record {finished.folder}/result.json")


def score(run: EvaluateConfig, config: dict[str, Any], ranks: Ranks = ONE) -> Finished:
    """Load, evaluate, and add the scores to the record of the run, or to a new one; what is there is not done again.

    `config` is the resolved config of `run`. `ranks`: that share the windows and tasks.
    """
    ranks.once(lambda: check_evaluate(run))
    folder = ranks.once(lambda: run.record_folder)
    cache = Path(run.paths.cache)
    if folder is None:
        key = ranks.once(lambda: str(evaluation_key(run.eval, cache)))
        record = _scored(run, config, None, key, ranks)
        folder = Path(run.paths.outputs) / "evaluations" / record["name"]
        ranks.once(partial(write_record, folder, record))
    else:
        with alone(folder, ranks):
            before = ranks.once(partial(read_record, folder))
            key = ranks.once(lambda: str(evaluation_key(run.eval, cache, _loaded(run, before))))
            record = _scored(run, config, before, key, ranks)
            if ranks.first and record is not before:
                write_record(folder, record)
                _track(folder, record)
    evaluation = evaluation_of(record, key)
    assert evaluation is not None, "it was just added"
    return Finished(folder, scored(record, evaluation))


def _track(folder: Path, record: Record) -> None:
    """Tell the run's tracker of its last evaluation."""
    config, evaluation = record["config"], record["evaluations"][-1]
    if "tracker" not in config:  # of a folder that no run left
        return
    source = build(Tracked, {"tracker": config["tracker"]}).tracker
    labels = {key: record[key] for key in ("model", "method", "pattern", "seed")}
    labels |= {"sparsity": record["sparsity"]["asked"]}
    tracker = source.open(TrackedRun(folder=folder, name=record["name"], labels=labels, config=config, step=None))
    tables = score_tables(scored(record, evaluation))
    tracker.close(Outcome(summary=summary_of(evaluation), tables=tables, record=folder / "result.json"))


def _scored(run: EvaluateConfig, config: dict[str, Any], record: Record | None, key: str, ranks: Ranks) -> Record:
    """The record with this evaluation: that of the run, or a new one for a folder that no run left."""
    cache = Path(run.paths.cache)
    if record is not None and evaluation_of(record, key):
        return record
    how = _as_saved(run, record) | _loaded(run, record)
    dtype, bos = how["dtype"], how["begin_with_bos"]
    source = Pretrained(name=_name(run), path=str(run.model_folder), dtype=dtype, begin_with_bos=bos)
    ranks.once(source.check)
    device = resolved_device(run.device)
    model, tokenizer = ranks.all_or_none(lambda: source.load(cache, device))
    reader = WindowReader(tokenizer=tokenizer, cache=cache, begin_with_bos=bos, **limits(model))
    prepared = ranks.first_then_all(lambda: run.eval.prepare(reader))
    scores = run.eval.evaluate(Subject(model=model, tokenizer=tokenizer, cache=cache, ranks=ranks), prepared)
    if other := _loaded(run, record):
        for score in scores.get("perplexity", {}).values():
            score["loaded"] = ", ".join(f"{name}={value}" for name, value in other.items())
    evaluation = {"key": key, "config": config["eval"], "environment": environment(device)} | scores
    record = record or _described(run, config, model)
    return record | {"evaluations": [*record["evaluations"], evaluation]}


def _as_saved(run: EvaluateConfig, record: Record | None) -> dict[str, Any]:
    """How the weights are loaded if nothing else is asked for."""
    if record is None:
        return {"dtype": Stored(run.model_folder).dtype or "float32", "begin_with_bos": False}
    model = record["config"]["model"]
    dtype = record.get("dtype") or model.get("dtype") or "float32"
    return {"dtype": dtype, "begin_with_bos": model.get("begin_with_bos", False)}


def _loaded(run: EvaluateConfig, record: Record | None) -> dict[str, Any]:
    """What is asked for that is not as the weights were saved: part of what decides the scores."""
    asked = {"dtype": run.dtype, "begin_with_bos": run.begin_with_bos}
    saved = _as_saved(run, record)
    return {name: value for name, value in asked.items() if value is not None and value != saved[name]}


def _name(run: EvaluateConfig) -> str:
    """Of the folder that is scored, as it can be a part of a path."""
    return file_name(Path(run.checkpoint).resolve().name)


def _described(run: EvaluateConfig, config: dict[str, Any], model: PreTrainedModel) -> Record:
    """A record of a folder that no run left, as far as it can be known."""
    weights = {path.name: file_hash(path) for path in sorted(run.model_folder.glob("*.safetensors"))}
    counts = {n: {"zeros": int((w.value_OI == 0).sum()), "numel": w.numel} for n, w in prunable_weights(model).items()}
    zeros, numel = (sum(count[key] for count in counts.values()) for key in ("zeros", "numel"))
    name, share = _name(run), zeros / numel
    return {
        "name": f"{name}-{content_hash([weights, config['eval']])}", "model": name, "method": "checkpoint",
        "pattern": f"{share:.2%}" if zeros else "dense", "seed": None, "settings": {}, "weights_sha256": weights,
        "sparsity": {"asked": share, "counted": share, "zeros": zeros, "numel": numel, "tensors": counts},
        "facts": {}, "seconds": {"prune": 0.0}, "peak_memory_bytes": 0,
        "config": {key: value for key, value in config.items() if key != "paths"} | {"model": {"name": name}},
        "environment": environment(resolved_device(run.device)), "evaluations": [],
    }  # fmt: skip


def _print(record: Record) -> None:
    for name, score in record["perplexity"].items():
        print(f"{name}: perplexity {score['perplexity']:.4f} ({score['windows']} windows of {score['length']} tokens)")
    print_task_tables([record])
