"""`elsa bench checkpoint=<folder>`: how fast a saved model decodes, dense and sparse, and in how many bytes."""

import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.table import Table

from elsa.config.build import build
from elsa.config.checks import check_folders
from elsa.config.compose import plain
from elsa.config.deploy import BenchConfig
from elsa.config.prune import resolved_device
from elsa.decoding.bench import (
    CEILING,
    Load,
    Side,
    against,
    bandwidth,
    busy,
    bytes_per_token,
    measure,
    sides,
    verdict,
)
from elsa.errors import require
from elsa.export.forms import form
from elsa.files import content_hash, file_hash, file_name, write_json
from elsa.model.loading import Pretrained, limits
from elsa.record.environment import environment
from elsa.report.table import console
from elsa.run.saved import left_out, record_of

_MB = 1e6


def bench(composed: DictConfig) -> None:
    """Load, time, print, and keep the numbers beside the model's run."""
    config = plain(composed)
    run = build(BenchConfig, config)
    check_folders(run.paths)
    run.check_folder()
    device = torch.device(resolved_device(run.device))
    for name in run.forms or []:
        form(name, device)
    if run.threads is not None:
        torch.set_num_threads(run.threads)
    warning = busy()
    if warning is not None:
        print(f"elsa: {warning}", file=sys.stderr)
    found = timed(run, device)
    for batch in found["batches"]:
        _print(batch)
    name = file_name(run.model_folder.resolve().name)
    key = content_hash([found["weights_sha256"], config, found["environment"]], 8)
    path = _place(run) / f"{name}-{key}.json"
    write_json(path, found | {"busy": warning, "config": config})
    print(f"record {path}")


def timed(run: BenchConfig, device: torch.device) -> dict[str, Any]:
    """The model of `run`, timed at every size of its batch."""
    name, path = file_name(run.model_folder.resolve().name), str(run.model_folder)
    record = record_of(run)
    sources = [Pretrained(name=name, path=path, dtype=dtype, exclude=left_out(record)) for dtype in run.dense]
    models = [source.load(Path(run.paths.cache), str(device))[0] for source in sources]
    found = limits(models[0])
    longest = found["positions"]
    total = run.prompt + run.tokens
    require(
        longest is None or total <= longest, "tokens", run.tokens, f"with the prompt at most {longest} for this model"
    )
    every = sides(models, run.forms, run.compile)
    speed = bandwidth(device)
    with torch._dynamo.config.patch(recompile_limit=8 * len(every) * len(run.batch)):  # one forward, many models
        batches = [_batch(run, every, size, found["vocabulary"] or 1, speed) for size in run.batch]
    weights = {path.name: file_hash(path) for path in sorted(run.model_folder.glob("*.safetensors"))}
    return {
        "checkpoint": run.checkpoint, "run": (record or {}).get("name"), "weights_sha256": weights,
        "threads": torch.get_num_threads(), "bandwidth": speed, "environment": environment(str(device)),
        "batches": batches,
    }  # fmt: skip


def _batch(run: BenchConfig, every: list[Side], size: int, vocabulary: int, speed: float) -> dict[str, Any]:
    load = Load(batch=size, prompt=run.prompt, tokens=run.tokens, rounds=run.rounds)
    found = measure(every, load, vocabulary)
    decided = verdict(found, every)
    for side in every:
        row = found[side.name]
        row["bandwidth_share"] = (
            bytes_per_token(side.model) * run.tokens / sorted(row["seconds"])[run.rounds // 2] / speed
        )
        row["against_dense"] = (
            against(row["seconds"], found[decided["dense"]]["seconds"]) if "dense" in decided else None
        )
    return {"batch": size, "prompt": run.prompt, "tokens": run.tokens, "sides": found, "verdict": decided}


def _print(batch: dict[str, Any]) -> None:
    table = Table(title=f"batch {batch['batch']}, {batch['tokens']} tokens after {batch['prompt']}")
    for column in ("", "tokens/s", "times the fastest dense", "MB", "of bandwidth", "prompt ms", "logits differ by"):
        table.add_column(column, justify="left" if not column else "right")
    for name, row in batch["sides"].items():
        ratio = row["against_dense"]
        times = "" if ratio is None else f"{ratio['ratio']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"
        differs = "" if CEILING in name else f"{row['logits_differ']:.2g}"
        shown = [f"{row['tokens_per_second']:.1f}", times, f"{row['bytes'] / _MB:,.0f}"]
        shown += [f"{row['bandwidth_share']:.0%}", f"{1e3 * row['prefill_seconds']:.0f}", differs]
        table.add_row(name, *shown)
    console(130).print(table)
    print(batch["verdict"]["words"])


def _place(run: BenchConfig) -> Path:
    """Beside the record of the model's run, where `elsa report` finds it, if there is one."""
    if run.record_folder is not None:
        return run.record_folder / "benches"
    above = Path(run.checkpoint).resolve().parents[1]  # of exports/<format>
    return (above if (above / "result.json").is_file() else Path(run.paths.outputs)) / "benches"
