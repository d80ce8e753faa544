"""One pruning run from checked config to record: load, prune, save, count, evaluate, in that order."""

import dataclasses
import gc
import logging
import random
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from pydantic import TypeAdapter
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from elsa.checkpoint.resume import RunCheckpoints
from elsa.checkpoint.saving import check_pattern, count_zeros, save
from elsa.config.checks import check_prune
from elsa.config.identity import evaluation_key, pruned_key, run_name, same_question, settings
from elsa.config.prune import PruneConfig, resolved_device
from elsa.data.windows import WindowReader, windows_hash
from elsa.distributed.ranks import ONE, Ranks
from elsa.distributed.sharding import gathered
from elsa.errors import UserError, require
from elsa.evaluation.base import Subject, paired, summary_of
from elsa.files import (
    explained,
    file_hash,
    flattened,
    make_folder,
    read_json,
    remove_if_only,
    remove_leftovers,
    write_json,
)
from elsa.method.base import Task
from elsa.method.dense import Dense
from elsa.model.loading import ModelSource, Pretrained, limits
from elsa.model.weights import Coverage, PrunableWeight, prunable_weights
from elsa.record.environment import environment
from elsa.record.key import Key
from elsa.record.record import Record, evaluation_of, read_pruned, read_record, scored, write_record
from elsa.record.scores import TASK_SCORES, against_dense
from elsa.report.figure import mask_change_figure, sparsity_figure
from elsa.report.table import score_tables
from elsa.sparsity.allocation import patterns_by_level
from elsa.sparsity.pattern import Pattern
from elsa.track import Outcome, TrackedRun, Tracker
from elsa.track.memory import peak_bytes, reset_peak
from elsa.track.none import NoTracker
from elsa.track.progress import progress

_DENSE = {"_target_": "elsa.method.dense.Dense"}
_MASK_CHANGES = TypeAdapter(dict[int, dict[str, float]])
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Finished:
    """A run that is done. `record`: with the scores of the evaluation that was asked for."""

    folder: Path
    record: Record


def run_with_dense(run: PruneConfig, config: dict[str, Any], ranks: Ranks = ONE) -> list[Finished]:
    """Make sure that the dense model's record exists, then run; both, dense first.

    `config` is the resolved config of `run`. What was pruned before is not pruned again, nor scored again in one way.
    `ranks`: that share the work. The first of them alone reads and writes the run's folder, but for the state of a
    training.
    """
    alone = f"it runs in {ranks.size} here; start it with elsa, torchrun or srun"
    require(run.ranks == ranks.size, "devices", run.ranks, alone)
    covered = ranks.once(lambda: check_prune(run))
    finished = [run_alone(*dense_of(run, config), covered.of_all(), None, ranks)]
    if not isinstance(run.method, Dense):
        finished.append(run_alone(run, config, covered, finished[0], ranks))
    return finished


def dense_of(run: PruneConfig, config: dict[str, Any]) -> tuple[PruneConfig, dict[str, Any]]:
    """The run of the dense model that this one is compared with, and its config."""
    model = dataclasses.replace(run.model, include=None, exclude=[])
    dense = {"method": _DENSE, "model": config["model"] | {"include": None, "exclude": []}}
    return dataclasses.replace(run, method=Dense(), model=model), config | dense


def run_alone(
    run: PruneConfig, config: dict[str, Any], covered: Coverage, dense: Finished | None, ranks: Ranks = ONE
) -> Finished:
    """One run without that of its dense model, which `dense` is, if it is known."""
    names = ranks.once(lambda: Names.of(run))
    ranks.once(lambda: make_folder(names.folder))
    with alone(names.folder, ranks):
        record = ranks.once(lambda: read_record(names.folder))
        found = evaluation_of(record, names.wanted)
        if found is not None and record is not None:
            if not isinstance(run.method, Dense):
                _log.info("%s: finished before, not run again (delete the folder to do so)", names.folder)
            return Finished(names.folder, scored(record, found))
        done = "" if record is None else ", pruned before and scored anew"
        _log.info("%s: running (%s%s)", names.folder, covered, done)
        try:
            return Finished(names.folder, _Job(run, config, names, dense, ranks).execute(covered, record))
        except UserError:
            if ranks.first:
                remove_if_only(names.folder, {".lock", "config.json"})  # what has begun stays for the next time
            raise


@dataclasses.dataclass(frozen=True)
class Names:
    """Where a run lies and what it is asked. `wanted`: the evaluation's key, or its beginning if any code will do."""

    folder: Path
    pruned: Key
    evaluation: Key
    wanted: str

    @classmethod
    def of(cls, run: PruneConfig) -> "Names":
        """With `reuse=any_code` the newest finished folder of the same question, if there is one."""
        runs, pruned = Path(run.paths.outputs) / "runs", pruned_key(run)
        evaluation = evaluation_key(run.eval, Path(run.paths.cache))
        folder = runs / run_name(run, pruned)
        if run.reuse == "same_code":
            return cls(folder, pruned, evaluation, str(evaluation))
        done = [each for each in runs.glob(same_question(run, pruned)) if (each / "result.json").is_file()]
        newest = max(done, key=lambda each: (each / "result.json").stat().st_mtime, default=folder)
        if newest != folder:
            _log.info("%s: reused, though it was made by other code or libraries (reuse=any_code)", newest)
        return cls(newest, pruned, evaluation, f"{evaluation.question}-")


@contextmanager
def alone(folder: Path, ranks: Ranks = ONE) -> Iterator[None]:
    """One process, or one group of ranks, at a time in a run's folder: the runs of a sweep share the dense model's."""
    lock = FileLock(folder / ".lock")

    def acquire() -> None:
        try:
            with explained(folder / ".lock", "locked"):
                lock.acquire(timeout=0)
        except Timeout:
            _log.info("%s: another process is running this very run; waiting for it", folder)
            lock.acquire()
        remove_leftovers(folder)

    ranks.once(acquire)
    try:
        yield
    finally:
        lock.release()


class _Job:
    """One run in its folder. What an earlier process did of it is not done again. `dense`: the dense model's run."""

    def __init__(self, run: PruneConfig, config: dict[str, Any], names: Names, dense: Finished | None, ranks: Ranks):
        self._run, self._config, self._names, self._dense, self._ranks = run, config, names, dense, ranks
        self._folder = names.folder
        self._device = resolved_device(run.device)
        self._seconds: dict[str, float] = {}
        self._hashes: dict[str, str] = {}  # of the data that the method sees
        self._data: dict[str, Any] = {}  # what else there is to say about it
        checkpoint = run.checkpoint
        self._checkpoints = RunCheckpoints(
            self._folder / "checkpoints", checkpoint.every_minutes, checkpoint.keep, self._fingerprint, ranks,
            self._device,
        )  # fmt: skip

    def execute(self, covered: Coverage, record: Record | None) -> Record:
        """Prune and save, unless that is done; then evaluate and write the record. `record`: what there is of it."""
        run, cache, ranks = self._run, Path(self._run.paths.cache), self._ranks
        ranks.once(lambda: write_json(self._folder / "config.json", self._config))
        pruned = ranks.once(lambda: self._kept(record))
        with self._timed("load"):
            pruned, model, tokenizer = self._load(pruned)
            reader = WindowReader(
                tokenizer=tokenizer, cache=cache, begin_with_bos=run.model.begin_with_bos, **limits(model)
            )
            prepared = ranks.first_then_all(lambda: run.eval.prepare(reader))
        tracker = self._track(None if pruned is not None else self._checkpoints.step())
        outcome = Outcome()
        try:
            if pruned is None:
                pruned = _with_scores_of(record, self._prune_and_save(model, tokenizer, reader, tracker, covered))
                if ranks.size > 1 and run.method.trains:  # each has rows of it alone
                    del model
                    gc.collect()  # FSDP's hooks and its modules know each other
                    pruned, model, tokenizer = self._load(pruned)
            with self._timed("evaluate"):
                subject = Subject(model=model, tokenizer=tokenizer, cache=cache, ranks=ranks)
                scores = run.eval.evaluate(subject, prepared)
            assert pruned is not None, "it was pruned and saved"
            record = ranks.once(partial(self._write_record, pruned, scores))
            if ranks.first:
                outcome = self._outcome(record, scores)
        finally:
            tracker.close(outcome)
        return record

    def _outcome(self, record: Record, scores: dict[str, Any]) -> Outcome:
        parent = {"name": self._run.model.name} | self._run.model.identity(Path(self._run.paths.cache))
        saved = self._folder / "model"
        return Outcome(
            summary=summary_of(scores), tables=score_tables(record), pictures=self._pictures(record),
            record=self._folder / "result.json", model=saved if saved.is_dir() else None,
            made_from={"data": record["data_sha256"], "model": parent},
        )  # fmt: skip

    def _kept(self, record: Record | None) -> Record | None:
        """What was pruned before, in the record of the run or in `pruned.json`; None, and said, if that is broken."""
        try:
            pruned = read_pruned(self._folder) if record is None else record
        except UserError as error:
            if not (self._folder / "pruned.json").is_file():  # it could not be written either
                raise
            _log.error("%s; pruning again", error)
            return None
        hashes = {} if pruned is None else pruned.get("weights_sha256", {})
        if hashes and hashes != _weights_hashes(self._folder / "model"):
            _log.error("%s: not the weights that were saved there; pruning again", self._folder / "model")
            return None
        return pruned

    def _load(self, pruned: Record | None) -> tuple[Record | None, PreTrainedModel, PreTrainedTokenizerFast]:
        """The model that was pruned, with what is known of it; the model to prune if that cannot be loaded."""
        run, cache = self._run, Path(self._run.paths.cache)
        if pruned is not None and not isinstance(run.method, Dense):  # the dense model is not ours and was not saved
            where, bos = str(self._folder / "model"), run.model.begin_with_bos
            dtype = pruned.get("dtype") or run.model.dtype
            try:
                saved = Pretrained(name=run.model.name, path=where, dtype=dtype, begin_with_bos=bos)
                self._ranks.once(saved.check)
                return pruned, *self._ranks.all_or_none(lambda: saved.load(cache, self._device))
            except UserError as error:
                _log.error("%s: %s; pruning again", where, error)
                pruned = None
        return pruned, *self._ranks.all_or_none(lambda: self._to_prune.load(cache, self._first_place))

    @property
    def _first_place(self) -> str:
        """The device; CPU memory where nothing comes before a training that brings each rank its rows to the device."""
        method = self._run.method
        return "cpu" if self._ranks.size > 1 and method.trains and method.first is None else self._device

    @property
    def _to_prune(self) -> ModelSource:
        """The model to prune; in bf16 at once if it is trained in it and nothing comes before that."""
        run = self._run
        at_once = run.method.trains and run.method.first is None and run.model.dtype == "float32"
        return dataclasses.replace(run.model, dtype=run.precision.weights) if at_once else run.model

    def _track(self, step: int | None) -> Tracker:
        folder, name = self._folder, self._folder.name
        if not self._ranks.first:
            return NoTracker().open(TrackedRun(folder=folder, name=name, labels={}, config={}))
        return self._run.tracker.open(
            TrackedRun(folder=folder, name=name, labels=self._labels, config=self._config, step=step)
        )

    def _prune_and_save(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerFast,
        reader: WindowReader,
        tracker: Tracker,
        covered: Coverage,
    ) -> Record:
        """Apply the method, save and count; what is known then is the record but for its scores."""
        random.seed(self._run.seed)
        torch.manual_seed(self._run.seed)
        reset_peak(self._device)
        with self._timed("prune"):
            facts = self._run.method.apply(model, self._task(reader, tracker))
        self._seconds["prune"] += self._checkpoints.seconds_before - self._seconds.get("data", 0.0)
        peak = max(self._ranks.gather(peak_bytes(self._device)))
        outcome = {"facts": facts, "data": self._data, "data_sha256": self._hashes, "peak_memory_bytes": peak}
        outcome["devices"] = self._ranks.size
        with self._timed("save"):
            whole = gathered(model, self._ranks)
            pruned = self._ranks.once(lambda: self._saved(model, whole, tokenizer, outcome, covered))
        self._checkpoints.discard()
        return pruned

    def _saved(
        self,
        model: PreTrainedModel,
        whole: dict[str, torch.Tensor] | None,
        tokenizer: PreTrainedTokenizerFast,
        outcome: Record,
        covered: Coverage,
    ) -> Record:
        """Save the model, whose weights are `whole` where it is spread over ranks; what is known of it then."""
        if changes := outcome["facts"].pop("mask_changes", None):
            write_json(self._folder / "mask_changes.json", changes)
        outcome |= {"sparsity": _save_and_count(self._run, model, whole, tokenizer, self._folder)}
        if covered.left_out:
            outcome["sparsity"] |= {"of_blocks": _of_blocks(outcome["sparsity"], self._folder / "model", covered)}
        outcome |= {"weights_sha256": _weights_hashes(self._folder / "model")}
        pruned = self._described(covered) | outcome | {"dtype": str(model.dtype).removeprefix("torch.")}
        if (self._folder / "model").is_dir():
            write_json(self._folder / "pruned.json", pruned)
        return pruned

    def _described(self, covered: Coverage) -> Record:
        """The part of the record that says what was run."""
        science = {group: node for group, node in self._config.items() if group != "paths"}  # config.json has them too
        seconds = {phase: round(value, 3) for phase, value in self._seconds.items()}
        return {
            "name": self._folder.name, **{key: self._labels[key] for key in ("model", "method", "pattern", "seed")},
            "key": self._names.pruned._asdict(), "settings": settings(self._run), "seconds": seconds,
            "coverage": covered.facts(), "device": self._device, "config": science,
            "environment": environment(self._device), "evaluations": [],
        }  # fmt: skip

    def _task(self, reader: WindowReader, tracker: Tracker) -> Task:
        run = self._run

        def windows(count: int) -> torch.Tensor:
            with self._timed("data"):
                found = self._ranks.first_then_all(lambda: reader.training(run.data, count, run.seed))
                self._hashes[f"train[{count}]"] = windows_hash(found)
                self._data = run.data.facts() | reader.counts
            return found

        return Task(
            pattern=run.sparsity, training=run.training, penalty=run.penalty, precision=run.precision,
            windows=windows, log=tracker.log, activations=run.activations, checkpoints=self._checkpoints,
            probe_every=run.probe_every, ranks=self._ranks,
        )  # fmt: skip

    @cached_property
    def _labels(self) -> dict[str, str | float | int]:
        run = self._run
        pruned = run.method.prunes
        return {
            "model": run.model.name, "method": run.method.label,
            "pattern": run.sparsity.name if pruned else "dense",
            "sparsity": run.sparsity.sparsity if pruned else 0.0, "seed": run.seed,
        }  # fmt: skip

    def _pictures(self, record: Record) -> dict[str, Path]:
        """Draw the zeros of every weight and, where ADMM moved masks, how much they changed."""
        pictures = {"sparsity": self._folder / "sparsity.png"}
        sparsity_figure(record, pictures["sparsity"])
        changes = self._mask_changes()
        if len(changes) > 1:
            pictures["mask_change"] = self._folder / "mask_change.png"
            mask_change_figure(changes, self._folder.name, pictures["mask_change"])
        return pictures

    def _mask_changes(self) -> dict[int, dict[str, float]]:
        """By step and weight; none if the file is broken, for a picture is worth no run."""
        path = self._folder / "mask_changes.json"
        try:
            changes = _MASK_CHANGES.validate_python(read_json(path) or {})
        except ValueError:
            _log.error("%s: broken, so there is no picture of it", path)
            return {}
        names = {frozenset(shares) for shares in changes.values()}
        return changes if len(names) == 1 else {}

    def _write_record(self, pruned: Record, scores: dict[str, dict[str, Any]]) -> Record:
        """Add the evaluation to what was pruned; the record with its scores."""
        evaluation: dict[str, Any] = {"key": str(self._names.evaluation), "config": self._config["eval"]} | scores
        if self._dense is not None:
            for kind in scores.keys() & set(TASK_SCORES):
                evaluation[against_dense(kind)] = paired(self._dense.record[kind], scores[kind])
        evaluation |= {"environment": environment(self._device), "seconds": round(self._seconds["evaluate"], 3)}
        seconds = {phase: round(value, 3) for phase, value in self._seconds.items()}
        record = pruned | {"seconds": seconds | pruned["seconds"] | {"evaluate": seconds["evaluate"]}}
        record |= {"evaluations": [*pruned["evaluations"], evaluation]}
        write_record(self._folder, record)
        return scored(record, evaluation)

    def _fingerprint(self) -> dict[str, object]:
        key = self._names.pruned
        return flattened({"config": settings(self._run), "key": key._asdict(), "data": self._hashes})

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self._seconds[phase] = self._seconds.get(phase, 0.0) + time.perf_counter() - start


def _save_and_count(
    run: PruneConfig,
    model: PreTrainedModel,
    whole: dict[str, torch.Tensor] | None,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
) -> dict[str, Any]:
    """Save unless the model is the dense one; count zeros in the saved file and hold them against the pattern."""
    weights = prunable_weights(model)
    if isinstance(run.method, Dense):
        counts = {n: {"zeros": int((w.value_OI == 0).sum()), "numel": w.numel} for n, w in weights.items()}
    else:
        save(model, tokenizer, folder / "model", whole, run.model.companions(Path(run.paths.cache)))
        counts = count_zeros(folder / "model", list(weights))
    if run.method.prunes:
        transposed = {name: weight.transposed for name, weight in weights.items()}
        check_pattern(folder / "model", transposed, run.sparsity, _levels(run, weights))
    zeros, numel = (sum(count[key] for count in counts.values()) for key in ("zeros", "numel"))
    asked = run.sparsity.sparsity if run.method.prunes else 0.0
    return {"asked": asked, "counted": zeros / numel, "zeros": zeros, "numel": numel, "tensors": counts}


def _levels(run: PruneConfig, weights: Mapping[str, PrunableWeight]) -> dict[str, Pattern] | None:
    """The pattern of each weight if it goes by its name."""
    if run.sparsity.levels is None:
        return None
    return patterns_by_level(run.sparsity, {name: weight.numel for name, weight in weights.items()})


def _of_blocks(counted: dict[str, Any], saved: Path, covered: Coverage) -> dict[str, Any]:
    """Zeros of all weights of the blocks, what was left out too. `counted`: those of what was pruned."""
    others = count_zeros(saved, list(covered.left_out)).values()
    zeros = counted["zeros"] + sum(count["zeros"] for count in others)
    return {"counted": zeros / covered.total, "zeros": zeros, "numel": covered.total}


def _with_scores_of(record: Record | None, pruned: Record) -> Record:
    """What was pruned again has the scores of before if it came out as the same bits."""
    same = record is not None and record.get("weights_sha256") == pruned["weights_sha256"]
    return pruned | {"evaluations": record["evaluations"]} if same and record is not None else pruned


def _weights_hashes(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of weights: two runs gave the same bits exactly if these are equal."""
    files = sorted(folder.glob("*.safetensors"))
    return {path.name: file_hash(path) for path in progress(files, "hash", unit="file")}
