"""The way in from Python: the same runs as on the command line, or a model in memory.

Shapes: N windows of L tokens (`windows_NL`).
"""

import os
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from elsa import hub
from elsa.admm.penalty import Auto, Penalty
from elsa.config.build import build
from elsa.config.choices import choices
from elsa.config.compose import compose
from elsa.config.prune import EvaluateConfig, PruneConfig
from elsa.data.sources import Stdlib, TextSource
from elsa.data.windows import WindowReader
from elsa.errors import UserError, require
from elsa.export.quantizer import load_sparse
from elsa.export.stored import Stored
from elsa.files import file_name
from elsa.method.base import Method, Task
from elsa.model.loading import Pretrained, limits
from elsa.model.weights import choose, prunable_weights
from elsa.record.record import Record
from elsa.run.evaluate import score
from elsa.run.job import Finished, run_with_dense
from elsa.sparsity.pattern import Pattern
from elsa.train.budget import Training
from elsa.train.precision import Precision

_LENGTH = 256  # tokens of a window of the text that is taken where none is named
_HELD_OUT = 0.1  # of own text without splits, for validation and for test each


@dataclass(frozen=True)
class Run:
    """A finished run, as `prune` and `evaluate` give it.

    Args:
        folder: where it lies: config, metrics, checkpoint and record.
        record: its `result.json` with the scores that were asked for (`elsa.record.record`).
    """

    folder: Path
    record: Record

    @property
    def perplexity(self) -> float:
        """Perplexity on the first evaluation set; `perplexities` has all."""
        return next(iter(self.perplexities.values()))

    @property
    def perplexities(self) -> dict[str, float]:
        """Perplexity by the name of the evaluation set."""
        return {name: score["perplexity"] for name, score in self.record["perplexity"].items()}

    @property
    def sparsity(self) -> float:
        """The fraction of zeros among the pruned weights, as counted in the saved file."""
        return float(self.record["sparsity"]["counted"])

    @cached_property
    def _loaded(self) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        return load(self.folder)

    @property
    def model(self) -> PreTrainedModel:
        """The pruned model in fp32 on the CPU, in evaluation mode; loaded when it is first asked for."""
        return self._loaded[0]

    @property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The model's tokenizer."""
        return self._loaded[1]


def prune(
    model: str | Path = "tiny",
    method: str = "elsa",
    sparsity: float | str = 0.5,
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    steps: int | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    overrides: Iterable[str] = (),
) -> Run:
    """Prune, save, evaluate and record, as `elsa prune` does; a finished run is found and not run again.

    Args:
        model: a choice of `conf/model`, a folder, or a hub id.
        method: a choice of `conf/method`, or a method that another package has registered.
        sparsity: the fraction of zeros, in [0, 1), or "keep:group" such as "2:4".
        data: a choice of `conf/data`, or files and folders of text, of which a tenth each is held out for validation
            and test; None for the sources of the Python standard library.
        steps: optimiser steps of a method that trains; None for those of its config.
        include: globs over names of weights ("*.down_proj") that say what is pruned; None for every prunable weight.
        exclude: globs that say what is not pruned in any case.
        overrides: any further key, as on the command line ("training.learning_rate=1e-3").

    Returns:
        The finished run, whose folder is named by all that decides its weights.

    Raises:
        UserError: for what cannot run, in the words of the command line.

    Examples:
        >>> run = elsa.prune(model="tiny", method="wanda", sparsity=0.5)  # doctest: +SKIP
        >>> run.perplexity, run.sparsity, run.folder  # doctest: +SKIP
    """
    given = [*_model(model), f"method={method}", *_sparsity(sparsity), *_data(data)]
    given += [] if steps is None else [f"training.steps={steps}"]
    given += [] if include is None else [f"model.include={_listed(include)}"]
    given += [f"model.exclude={_listed(exclude)}"] if exclude else []
    config = compose(*given, *overrides)
    run = build(PruneConfig, config)
    hub.use_mirror(run.paths.mirror)
    return _finished(run_with_dense(run, config)[-1])


def evaluate(checkpoint: str | Path | Run, *, overrides: Iterable[str] = ()) -> Run:
    """Score a saved model as `elsa evaluate` does, and add that to the record of its run.

    Args:
        checkpoint: a run, its folder, or any folder of a model.
        overrides: keys of the command line ("eval=zero_shot", "eval.windows=64").

    Returns:
        The run with the new scores; what was scored in the same way before is found and not scored again.

    Raises:
        UserError: for what cannot be scored, in the words of the command line.
    """
    folder = checkpoint.folder if isinstance(checkpoint, Run) else checkpoint
    config = compose(f"checkpoint={_quoted(folder)}", *overrides, command="evaluate")
    run = build(EvaluateConfig, config)
    hub.use_mirror(run.paths.mirror)
    return _finished(score(run, config))


def load(
    folder: str | Path, dtype: str | None = None, device: str = "cpu", form: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Model and tokenizer of a run's folder, of an exported one, or of any that transformers loads.

    Args:
        folder: of a run, or of a model.
        dtype: float32, bfloat16 or float16; None for that of the export, and float32 for other folders.
        device: where the model goes: "cpu", "cuda", "cuda:1".
        form: in which an exported model holds its sparse matrices; None for the one that fits each.

    Returns:
        The model, in evaluation mode, and its tokenizer.

    Raises:
        UserError: if there is no such folder, or what is in it is no whole model.
    """
    where = Path(folder) / "model" if (Path(folder) / "model").is_dir() else Path(folder)
    require(where.is_dir(), "folder", folder, "no such folder; give a run's folder or that of a model")
    stored = Stored(where)
    source = Pretrained(name=file_name(where.name), path=str(where), dtype=dtype or stored.dtype or "float32")
    source.check()
    if not stored.sparse:
        require(form is None, "form", form, f"{folder} was not exported as sparse")
        return source.load(_cache(), device)
    return load_sparse(where, source.dtype, device, form), source.tokenizer(_cache())


def prune_model(
    model: nn.Module,
    text: PreTrainedTokenizerFast | torch.Tensor,
    method: Method,
    sparsity: float | str | Pattern,
    *,
    data: TextSource | None = None,
    training: Training | None = None,
    penalty: Penalty | None = None,
    precision: Precision | None = None,
    include: Sequence[str] | None = None,
    exclude: Sequence[str] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Prune any `nn.Module` with decoder blocks in place, without files.

    Args:
        model: whose blocks and linear layers are found by structure (`elsa.model.weights`).
        text: token windows [N, L] of any integer type, of which the method takes the first that it needs; or a
            tokenizer, with which windows of at most 256 tokens are cut from `data`.
        method: such as `elsa.methods.Wanda()`.
        sparsity: the fraction of zeros, "keep:group", or a `Pattern`.
        data: a source of text for the tokenizer; None for the sources of the Python standard library.
        training: budget and optimiser of a method that trains.
        penalty: of `Elsa`, and of `ElsaPlus(hard=False)`; None for `Auto`.
        precision: where the bytes of a method that trains go.
        include: globs over names of weights that say what is pruned, until the next call with this model; None for all.
        exclude: globs that say what is not pruned in any case.
        seed: of the windows that are drawn, and of the training.

    Returns:
        Facts about how it went, with the fraction of zeros of each weight by name as `zeros`.

    Raises:
        UserError: for what cannot run.

    Examples:
        >>> model, tokenizer = elsa.load("outputs/runs/<run>")  # doctest: +SKIP
        >>> elsa.prune_model(model, tokenizer, elsa.methods.Magnitude(), "2:4")  # doctest: +SKIP
    """
    choose(model, include, exclude)
    random.seed(seed)
    torch.manual_seed(seed)
    pattern = (sparsity if isinstance(sparsity, Pattern) else _pattern(sparsity)).allocated(method.allocation)
    training = training or Training(warmup_steps=None, hidden_distillation=None)
    training = training.filled(method.warmup_steps, method.hidden_distillation)
    method.check(training)
    method.check_pattern(pattern)
    method.check_model(model)

    def windows(count: int) -> torch.Tensor:
        if isinstance(text, torch.Tensor):
            enough = len(text) >= count
            require(enough, "text", f"{len(text)} windows", f"{type(method).__name__} needs {count}")
            require(int(text.min()) >= 0, "text", int(text.min()), "token ids are from 0 up")
            return text[:count].int()
        found = limits(model)
        reader = WindowReader(tokenizer=text, cache=_cache(), **found)
        longest = found["positions"] or _LENGTH
        return reader.training(data or Stdlib(sequence_length=min(_LENGTH, longest)), count, seed)

    task = Task(
        pattern=pattern, training=training, penalty=penalty or Auto(), precision=precision or Precision(),
        windows=windows,
    )  # fmt: skip
    facts = method.apply(model, task)
    zeros = {name: float((weight.value_OI == 0).float().mean()) for name, weight in prunable_weights(model).items()}
    return facts | {"zeros": zeros}


def _finished(finished: Finished) -> Run:
    return Run(finished.folder, finished.record)


def _model(model: str | Path) -> list[str]:
    if str(model) in choices("model"):
        return [f"model={model}"]
    name = Path(model).resolve().name if Path(model).is_dir() else Path(str(model)).name
    return ["model=pretrained", f"model.path={_quoted(model)}", f"model.name={_quoted(file_name(name))}"]


def _sparsity(sparsity: float | str) -> list[str]:
    if isinstance(sparsity, str):
        return ["sparsity=n_of_m", f"sparsity.pattern={_quoted(sparsity)}"]
    return [f"sparsity.ratio={sparsity}"]


def _pattern(sparsity: float | str) -> Pattern:
    if isinstance(sparsity, str):
        return Pattern(pattern=sparsity, ratio=None)
    return Pattern(pattern="unstructured", ratio=float(sparsity), allocation=None)


def _data(data: str | Path | Sequence[str | Path] | None) -> list[str]:
    if data is None:
        return []
    if str(data) in choices("data"):
        return [f"data={data}"]
    files = [data] if isinstance(data, (str, Path)) else list(data)
    if not files:
        raise UserError("data=[]: name a file, a folder, or a choice of conf/data")
    return ["data=text", f"data.train={_listed(files)}", f"data.held_out={_HELD_OUT}"]


def _listed(values: Sequence[str | Path]) -> str:
    """A list as Hydra's grammar wants it."""
    return f"[{','.join(map(_quoted, values))}]"


def _quoted(value: str | Path) -> str:
    """As Hydra's grammar wants a value that may hold any character."""
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _cache() -> Path:
    """Where the command line keeps windows and hashes too."""
    return Path(os.environ.get("ELSA_CACHE") or Path.home() / ".cache" / "elsa")
