"""`elsa export checkpoint=<folder>`: a saved model in fewer bytes, with what that gains and costs."""

import dataclasses
import tempfile
import time
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from elsa.checkpoint.saving import save
from elsa.config.build import build
from elsa.config.checks import check_folders
from elsa.config.compose import plain
from elsa.config.deploy import ExportConfig
from elsa.config.prune import EvaluateConfig
from elsa.errors import require
from elsa.export.stored import Stored
from elsa.export.writing import INT8
from elsa.export.writing import export as write_export
from elsa.files import file_name
from elsa.model.loading import Pretrained
from elsa.model.weights import prunable_weights
from elsa.record.record import Record
from elsa.run.evaluate import score
from elsa.run.saved import left_out, record_of

_MB = 1e6


def export(composed: DictConfig) -> None:
    """Write, say how much smaller it is, and score it if that is asked for."""
    run = build(ExportConfig, plain(composed))
    check_folders(run.paths)
    run.check_folder()
    record = record_of(run)
    wanted = run.evaluate if run.evaluate is not None else run.dtype == INT8 and record is not None
    require(not wanted or record is not None, "evaluate", run.evaluate, f"{run.checkpoint} has no record of a run")
    began = time.monotonic()
    facts = exported(run, record)
    _print(run, facts, time.monotonic() - began)
    if wanted and record is not None:
        for line in _scores(run, record):
            print(line)


def exported(run: ExportConfig, record: Record | None) -> dict[str, Any]:
    """Write the folder; what its export.json says. `record`: that of the model's run, if there is one."""
    name = file_name(run.model_folder.resolve().name)
    source = Pretrained(name=name, path=str(run.model_folder), exclude=left_out(record))
    cache = Path(run.paths.cache)
    source.tokenizer(cache)  # refused before it is copied
    skeleton, stored = source.skeleton(cache), Stored(run.model_folder)
    matrices = {name: weight.transposed for name, weight in prunable_weights(skeleton).items()}
    if stored.shapes.keys() <= skeleton.state_dict().keys():
        return write_export(stored, matrices, run.export, run.folder, record)
    with tempfile.TemporaryDirectory() as folder:  # its files have other names than the model
        save(*source.load(cache, "cpu"), Path(folder) / "model", companions=source.companions(cache))
        return write_export(Stored(Path(folder) / "model"), matrices, run.export, run.folder, record)


def _print(run: ExportConfig, facts: dict[str, Any], seconds: float) -> None:
    size, ratio, zeros = facts["bytes"], facts["ratio"], facts["zeros"]
    print(f"{run.folder}: {size['total'] / _MB:,.1f} MB in {seconds:.1f} s")
    print(f"  {ratio['of_dense']:.3f} of dense {facts['dtype']}, {ratio['of_source']:.3f} of {run.model_folder}")
    parts = ", ".join(f"{part} {count / _MB:,.1f}" for part, count in size["parts"].items())
    print(
        f"  pruned matrices {ratio['matrices_of_dense']:.3f} of dense: {parts}; all else {size['rest'] / _MB:,.1f} MB"
    )
    lost = zeros["after"] - zeros["before"]
    cast = f"{lost:,} more by the cast to {facts['dtype']}" if lost else "the cast makes no more"
    print(f"  zeros {zeros['before']:,} of {zeros['numel']:,} ({zeros['before'] / zeros['numel']:.2%}), {cast}")


def _scores(run: ExportConfig, record: Record) -> list[str]:
    """Perplexity before and after, by the evaluations of the run."""
    lines = []
    for evaluation in record["evaluations"]:
        if not evaluation.get("perplexity"):
            continue
        asked = {
            "checkpoint": str(run.folder), "device": "auto", "data": record["config"]["data"],
            "eval": evaluation["config"], "paths": dataclasses.asdict(run.paths),
        }  # fmt: skip
        found = score(build(EvaluateConfig, asked), asked)
        for name, after in found.record["perplexity"].items():
            before = float(evaluation["perplexity"][name]["perplexity"])
            lines.append(f"{name}: perplexity {before:.4f} before, {after['perplexity']:.4f} in {run.export.name}")
    return lines
