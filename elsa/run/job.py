"""One pruning run from checked config to record: load, prune, save, count, evaluate, in that order."""

import dataclasses
import random
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
from elsa.config.checks import check_prune
from elsa.config.prune import PruneConfig, resolved_device
from elsa.config.run_id import run_name, settings
from elsa.data.windows import WindowReader, windows_hash
from elsa.evaluate.evaluation import Subject, paired, summary_of
from elsa.files import flattened, read_json, write_json
from elsa.method.base import Task
from elsa.method.dense import Dense
from elsa.model.loading import Pretrained
from elsa.model.weights import Coverage, PrunableWeight, prunable_weights
from elsa.report.figure import mask_change_figure, sparsity_figure
from elsa.report.record import environment, read_record, write_record
from elsa.report.table import score_tables
from elsa.track import Outcome, TrackedRun, Tracker
from elsa.track.memory import peak_bytes, reset_peak

_DENSE = {"_target_": "elsa.method.dense.Dense"}


def run_with_dense(run: PruneConfig, config: dict) -> list[Path]:
    """Make sure that the dense model's record exists, then run; the folders of both, dense first.

    `config` is the resolved config of `run`. A finished run is not run again.
    """
    covered = check_prune(run)
    folders = [_run_once(*dense_of(run, config), covered, None)]
    if not isinstance(run.method, Dense):
        folders.append(_run_once(run, config, covered, folders[0]))
    return folders


def dense_of(run: PruneConfig, config: dict) -> tuple[PruneConfig, dict]:
    """The run of the dense model that this one is compared with, and its config."""
    return dataclasses.replace(run, method=Dense()), config | {"method": _DENSE}


def run_folder(run: PruneConfig, config: dict) -> Path:
    """Where the run of this config has its folder."""
    return Path(run.paths.outputs) / "runs" / run_name(run, config)


def _run_once(run: PruneConfig, config: dict, covered: Coverage, dense: Path | None) -> Path:
    folder = run_folder(run, config)
    folder.mkdir(parents=True, exist_ok=True)
    with _alone(folder):
        if read_record(folder) is None:
            print(f"{folder}: running ({covered})", flush=True)
            _Job(run, config, folder, dense).execute(covered)
        elif not isinstance(run.method, Dense):
            print(f"{folder}: finished before, not run again (delete the folder to do so)", flush=True)
    return folder


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """One process at a time in a run's folder: the runs of a sweep share the dense model's."""
    lock = FileLock(folder / ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        print(f"{folder}: another process is running this very run; waiting for it", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


class _Job:
    """One run in its folder. What an earlier process did of it is not done again. `dense`: the dense model's folder."""

    def __init__(self, run: PruneConfig, config: dict, folder: Path, dense: Path | None):
        self._run, self._config, self._folder, self._dense = run, config, folder, dense
        self._device = resolved_device(run.device)
        self._seconds: dict[str, float] = {}
        self._hashes: dict[str, str] = {}  # of the data that the method sees
        checkpoint = run.checkpoint
        self._checkpoints = RunCheckpoints(
            folder / "checkpoints", checkpoint.every_minutes, checkpoint.keep, self._fingerprint
        )

    def execute(self, covered: Coverage) -> None:
        """Prune and save, unless that is done; then evaluate and write the record."""
        run, cache = self._run, Path(self._run.paths.cache)
        write_json(self._folder / "config.json", self._config)
        done = read_json(self._folder / "pruned.json")
        source = run.model if done is None else self._saved_model(done["dtype"])
        with self._timed("load"):
            model, tokenizer = source.load(cache, self._device)
            reader = WindowReader(tokenizer=tokenizer, cache=cache, begin_with_bos=run.model.begin_with_bos)
            prepared = run.eval.prepare(reader)
        step = self._checkpoints.step() if done is None else None
        tracker = run.tracker.open(
            TrackedRun(
                folder=self._folder, name=self._folder.name, labels=self._labels(), config=self._config, step=step
            )
        )
        outcome = Outcome()
        try:
            if done is None:
                done = self._prune_and_save(model, tokenizer, reader, tracker)
            with self._timed("evaluate"):
                scores = run.eval.evaluate(Subject(model=model, tokenizer=tokenizer, cache=cache), prepared)
            record = self._write_record(covered, scores, done)
            outcome = Outcome(summary=summary_of(scores), tables=score_tables(record), pictures=self._pictures(record))
        finally:
            tracker.close(outcome)

    def _prune_and_save(
        self, model: nn.Module, tokenizer: PreTrainedTokenizerFast, reader: WindowReader, tracker: Tracker
    ) -> dict:
        """Apply the method, save and count; what is known then goes into `pruned.json`."""
        random.seed(self._run.seed)
        torch.manual_seed(self._run.seed)
        reset_peak(self._device)
        with self._timed("prune"):
            facts = self._run.method.apply(model, self._task(reader, tracker))
        if changes := facts.pop("mask_changes", None):
            write_json(self._folder / "mask_changes.json", changes)
        self._seconds["prune"] += self._checkpoints.seconds_before - self._seconds.get("data", 0.0)
        outcome = {"facts": facts, "data_sha256": self._hashes, "peak_memory_bytes": peak_bytes(self._device)}
        with self._timed("save"):
            outcome |= {"sparsity": _save_and_count(self._run, model, tokenizer, self._folder)}
        phases = {phase: self._seconds[phase] for phase in ("data", "prune", "save") if phase in self._seconds}
        done = {"outcome": outcome, "seconds": phases, "dtype": str(model.dtype).removeprefix("torch.")}
        if (self._folder / "model").is_dir():
            write_json(self._folder / "pruned.json", done)
        self._checkpoints.discard()
        return done

    def _task(self, reader: WindowReader, tracker: Tracker) -> Task:
        run = self._run

        def windows(count: int) -> torch.Tensor:
            with self._timed("data"):
                found = reader.training(run.data, count, run.seed)
                self._hashes[f"train[{count}]"] = windows_hash(found)
            return found

        return Task(
            pattern=run.sparsity, training=run.training, penalty=run.penalty, precision=run.precision,
            windows=windows, log=tracker.log, activations=run.activations, checkpoints=self._checkpoints,
            probe_every=run.probe_every,
        )  # fmt: skip

    def _labels(self) -> dict[str, str | float | int]:
        run = self._run
        pruned = run.method.prunes
        return {
            "model": run.model.name, "method": run.method.label,
            "pattern": run.sparsity.name if pruned else "dense",
            "sparsity": run.sparsity.sparsity if pruned else 0.0, "seed": run.seed,
        }  # fmt: skip

    def _pictures(self, record: dict) -> dict[str, Path]:
        """Draw the zeros of every weight and, where ADMM moved masks, how much they changed."""
        pictures = {"sparsity": self._folder / "sparsity.png"}
        sparsity_figure(record, pictures["sparsity"])
        changes = read_json(self._folder / "mask_changes.json")
        if changes and len(changes) > 1:
            pictures["mask_change"] = self._folder / "mask_change.png"
            numbered = {int(step): shares for step, shares in changes.items()}
            mask_change_figure(numbered, self._folder.name, pictures["mask_change"])
        return pictures

    def _write_record(self, covered: Coverage, scores: dict[str, dict], done: dict) -> dict:
        run, config = self._run, self._config
        labels = self._labels()
        record = {"name": self._folder.name} | {key: labels[key] for key in ("model", "method", "pattern", "seed")}
        record |= {"settings": settings(run, config), "perplexity": {}} | scores | done["outcome"]
        record |= {"coverage": dataclasses.asdict(covered), "device": self._device}
        if "zero_shot" in scores and self._dense is not None:
            record["zero_shot_against_dense"] = paired(read_record(self._dense)["zero_shot"], scores["zero_shot"])
        seconds = self._seconds | done["seconds"]
        record |= {"seconds": {phase: round(value, 3) for phase, value in seconds.items()}}
        science = {group: node for group, node in config.items() if group != "paths"}  # config.json holds them too
        record |= {"config": science, "environment": environment()}
        write_record(self._folder, record)
        return record

    def _saved_model(self, dtype: str) -> Pretrained:
        where, bos = str(self._folder / "model"), self._run.model.begin_with_bos
        return Pretrained(name=self._run.model.name, path=where, revision=None, dtype=dtype, begin_with_bos=bos)

    def _fingerprint(self) -> dict:
        facts = {"config": settings(self._run, self._config), "model": self._run.model.identity()}
        return flattened(facts | {"data": self._hashes, "elsa": elsa.__version__})

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - start


def _save_and_count(run: PruneConfig, model: nn.Module, tokenizer: PreTrainedTokenizerFast, folder: Path) -> dict:
    """Save unless the model is the dense one; count zeros in the saved file and hold them against the pattern."""
    weights = prunable_weights(model)
    pruned = run.method.prunes
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


def _count(weight: PrunableWeight) -> dict[str, int]:
    return {"zeros": int((weight.value_OI == 0).sum()), "numel": weight.numel}
