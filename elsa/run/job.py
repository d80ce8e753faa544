"""One pruning run from checked config to record: load, prune, save, count, evaluate, in that order."""

import dataclasses
import random
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from filelock import FileLock, Timeout
from torch import nn
from transformers import PreTrainedTokenizerFast

import elsa
from elsa.checkpoint.resume import RunCheckpoints
from elsa.checkpoint.saving import check_pattern, count_zeros, save
from elsa.config.run_id import method_name, run_name, settings
from elsa.config.schema import PruneConfig, resolved_device
from elsa.data.windows import WindowReader, windows_hash
from elsa.errors import UserError
from elsa.files import flattened, read_json, write_json
from elsa.method import Task
from elsa.method.dense import Dense
from elsa.model.loading import Pretrained
from elsa.model.prunable import Coverage, PrunableWeight, prunable_weights
from elsa.report.record import environment, read_record, write_record
from elsa.track import Tracker
from elsa.track.memory import peak_bytes, reset_peak

_DENSE = {"_target_": "elsa.method.dense.Dense"}


def run_with_dense(run: PruneConfig, config: dict) -> list[Path]:
    """Make sure that the dense model's record exists, then run; the folders of both, dense first.

    `config` is the resolved config of `run`. A finished run is not run again.
    """
    covered = run.check()
    dense = dataclasses.replace(run, method=Dense())
    runs = [(dense, config | {"method": _DENSE})]
    if not isinstance(run.method, Dense):
        runs.append((run, config))
    return list(dict.fromkeys(_run_once(each, its_config, covered) for each, its_config in runs))


def _run_once(run: PruneConfig, config: dict, covered: Coverage) -> Path:
    folder = Path(run.paths.outputs) / "runs" / run_name(run, config)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / ".lock", timeout=0):
            if read_record(folder) is None:
                print(f"{folder}: running ({covered})", flush=True)
                _run(run, config, covered, folder)
            elif not isinstance(run.method, Dense):
                print(f"{folder}: finished before, not run again (delete the folder to do so)", flush=True)
    except Timeout as error:
        raise UserError(f"{folder}: another process is running this very run") from error
    return folder


def _run(run: PruneConfig, config: dict, covered: Coverage, folder: Path) -> None:
    """Prune and save, unless an earlier process got that far; then evaluate and write the record."""
    seconds: dict[str, float] = {}
    device, cache = resolved_device(run.device), Path(run.paths.cache)
    write_json(folder / "config.json", config)
    stage = read_json(folder / "pruned.json")
    source = run.model if stage is None else _saved(run, folder, stage["dtype"])
    with _timed(seconds, "load"):
        model, tokenizer = source.load(cache, device)
        reader = WindowReader(tokenizer=tokenizer, cache=cache, begin_with_bos=run.model.begin_with_bos)
        held_out = run.eval.read(reader)
    hashes: dict[str, str] = {}
    checkpoints = _checkpoints(run, config, folder, hashes)
    tracker = run.tracker.open(folder, folder.name, config, checkpoints.step() if stage is None else sys.maxsize)
    summary: dict[str, float] = {}
    try:
        if stage is None:
            stage = _prune_and_save(run, model, tokenizer, reader, tracker, checkpoints, hashes, folder)
        seconds |= stage["seconds"]
        with _timed(seconds, "evaluate"):
            perplexity = run.eval.evaluate(model, held_out)
        summary = {f"perplexity/{name}": score["perplexity"] for name, score in perplexity.items()}
    finally:
        tracker.close(summary)
    record = {"name": folder.name, "model": run.model.name, "method": method_name(config["method"])}
    record |= {"pattern": _pattern_name(run), "seed": run.seed, "settings": settings(run, config)}
    record |= {"perplexity": perplexity} | stage["outcome"]
    record |= {"coverage": dataclasses.asdict(covered), "device": device}
    record |= {"seconds": {phase: round(value, 3) for phase, value in seconds.items()}}
    science = {group: node for group, node in config.items() if group != "paths"}  # config.json holds them too
    write_record(folder, record | {"config": science, "environment": environment()})


def _saved(run: PruneConfig, folder: Path, dtype: str) -> Pretrained:
    bos = run.model.begin_with_bos
    return Pretrained(name=run.model.name, path=str(folder / "model"), revision=None, dtype=dtype, begin_with_bos=bos)


def _checkpoints(run: PruneConfig, config: dict, folder: Path, hashes: dict[str, str]) -> RunCheckpoints:
    def fingerprint() -> dict:
        facts = {"config": settings(run, config), "model": run.model.identity(), "data": hashes}
        return flattened(facts | {"elsa": elsa.__version__})

    every, keep = run.checkpoint.every_minutes, run.checkpoint.keep
    return RunCheckpoints(folder / "checkpoints", every, keep, fingerprint)


def _prune_and_save(
    run: PruneConfig,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    reader: WindowReader,
    tracker: Tracker,
    checkpoints: RunCheckpoints,
    hashes: dict[str, str],
    folder: Path,
) -> dict:
    """Apply the method, save and count; what is known so far, kept in `pruned.json` so that it is never done twice."""
    seconds: dict[str, float] = {}
    random.seed(run.seed)
    torch.manual_seed(run.seed)
    outcome = _prune(run, model, reader, tracker, checkpoints, hashes, seconds)
    with _timed(seconds, "save"):
        outcome |= {"sparsity": _save_and_count(run, model, tokenizer, folder)}
    stage = {"outcome": outcome, "seconds": seconds, "dtype": str(model.dtype).removeprefix("torch.")}
    if (folder / "model").is_dir():
        write_json(folder / "pruned.json", stage)
    checkpoints.discard()
    return stage


def _prune(
    run: PruneConfig,
    model: nn.Module,
    reader: WindowReader,
    tracker: Tracker,
    checkpoints: RunCheckpoints,
    hashes: dict[str, str],
    seconds: dict[str, float],
) -> dict:
    """Apply the method; its facts, the hashes of the data it saw, and its peak memory."""
    device = resolved_device(run.device)

    def windows(count: int) -> torch.Tensor:
        with _timed(seconds, "data"):
            found = reader.training(run.data, count, run.seed)
            hashes[f"train[{count}]"] = windows_hash(found)
        return found

    task = Task(
        pattern=run.sparsity, training=run.training, penalty=run.penalty, precision=run.precision, windows=windows,
        log=tracker.log, activations=run.activations, checkpoints=checkpoints,
    )  # fmt: skip
    reset_peak(device)
    with _timed(seconds, "prune"):
        facts = run.method.apply(model, task)
    seconds["prune"] -= seconds.get("data", 0.0)
    return {"facts": facts, "data_sha256": hashes, "peak_memory_bytes": peak_bytes(device)}


def _save_and_count(run: PruneConfig, model: nn.Module, tokenizer: PreTrainedTokenizerFast, folder: Path) -> dict:
    """Save unless the model is the dense one; count zeros in the saved file and hold them against the pattern."""
    weights = prunable_weights(model)
    pruned = "sparsity" in run.method.reads
    if isinstance(run.method, Dense):
        counts = {name: _count(weight) for name, weight in weights.items()}
    else:
        save(model, tokenizer, folder / "model")
        counts = count_zeros(folder / "model", list(weights))
    if pruned:
        transposed = {name: weight.transposed for name, weight in weights.items()}
        check_pattern(folder / "model", transposed, run.sparsity)
    zeros, numel = (sum(count[key] for count in counts.values()) for key in ("zeros", "numel"))
    asked = run.sparsity.sparsity if pruned else 0.0
    return {"asked": asked, "counted": zeros / numel, "zeros": zeros, "numel": numel, "tensors": counts}


def _pattern_name(run: PruneConfig) -> str:
    return run.sparsity.name if "sparsity" in run.method.reads else "dense"


def _count(weight: PrunableWeight) -> dict[str, int]:
    return {"zeros": int((weight.parameter == 0).sum()), "numel": weight.parameter.numel()}


@contextmanager
def _timed(seconds: dict[str, float], phase: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds[phase] = seconds.get(phase, 0.0) + time.perf_counter() - start
