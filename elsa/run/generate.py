"""`elsa generate checkpoint=<folder> prompt=<text>`: the quickest look at whether a pruned model still speaks."""

import dataclasses
import gc
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from elsa import hub
from elsa.config.build import build
from elsa.config.checks import check_folders
from elsa.config.compose import plain
from elsa.config.deploy import GenerateConfig
from elsa.config.prune import resolved_device
from elsa.data.repetition import NGRAM
from elsa.decoding.generation import Continuation, continuation, prompt_ids
from elsa.errors import UserError, require
from elsa.export.stored import Stored
from elsa.files import content_hash, file_hash, file_name, write_json
from elsa.model.loading import ModelSource, Pretrained, limits
from elsa.record.record import Record
from elsa.run.saved import record_of
from elsa.track.progress import progress

_REPEATS = 0.2  # more of the n-grams than in the dense model's text, from which on it is said


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Parent:
    """The model that a run has pruned."""

    model: ModelSource


def generate(composed: DictConfig) -> None:
    """Ask one model after the other, so that one alone is in memory; print and keep what they say."""
    config = plain(composed)
    run = build(GenerateConfig, config)
    hub.use_mirror(run.paths.mirror)
    check_folders(run.paths)
    run.check_folder()
    device, record = resolved_device(run.device), record_of(run)
    asked = _asked(run, record)
    said = {name: _said(run, name, source, device) for name, source in asked.items()}
    for number, prompt in enumerate(run.prompts):
        print(f"> {prompt}")
        for name, texts in said.items():
            print(f"\n[{name}] {_facts(texts[number], run.tokens)}\n{_printable(texts[number].text)}")
        print()
    if run.compare and "dense" not in said:
        print(f"{run.checkpoint} has no record of a run, so its dense model is not known")
    print(verdict(said))
    how = {"device": device, "dtype": next(iter(asked.values())).dtype, "run": record and record["name"]}
    _keep(run, config, how, said)


def verdict(said: dict[str, list[Continuation]]) -> str:
    """In words, from the numbers alone: means over the texts that are long enough for an n-gram."""
    shares = {name: _mean_repetition(texts) for name, texts in said.items()}
    name, own = next((each, share) for each, share in shares.items() if each != "dense")
    if own is None:
        return f"{name} says too little to repeat itself, less than {NGRAM} tokens"
    dense = shares.get("dense")
    beside = "" if dense is None else f", dense {dense:.0%}"
    if dense is not None and own - dense >= _REPEATS:
        return f"{name} repeats itself: {own:.0%} of its {NGRAM}-grams were there before{beside}"
    return f"{name} repeats {own:.0%} of its {NGRAM}-grams{beside}"


def _mean_repetition(texts: list[Continuation]) -> float | None:
    """None if all are too short to repeat anything."""
    shares = [text.repetition for text in texts if text.tokens >= NGRAM]
    return sum(shares) / len(shares) if shares else None


def _asked(run: GenerateConfig, record: Record | None) -> dict[str, ModelSource]:
    """The models by name, in the order in which they are asked. Raises `UserError` for one that is not there."""
    saved = {} if record is None else record["config"]["model"]
    own = Stored(run.model_folder).dtype or (record or {}).get("dtype") or saved.get("dtype") or "float32"
    pruned = Pretrained(
        name=file_name(run.model_folder.resolve().name), path=str(run.model_folder), dtype=run.dtype or own,
        begin_with_bos=saved.get("begin_with_bos", False),
    )  # fmt: skip
    if not run.compare or "_target_" not in saved:
        return {"model" if record is None else "pruned": pruned}
    with _saying_what_else():
        dense = build(_Parent, {"model": saved}).model
        dense.check()
    return {"dense": dataclasses.replace(dense, dtype=pruned.dtype), "pruned": pruned}


@contextmanager
def _saying_what_else() -> Iterator[None]:
    """Of the dense model, which can be done without."""
    try:
        yield
    except UserError as error:
        hint = "compare=false asks the pruned one alone"
        raise UserError(f"compare=true: the dense model of its run is not there ({error}); {hint}") from error


def _said(run: GenerateConfig, name: str, source: ModelSource, device: str) -> list[Continuation]:
    """What one model says after each prompt; it is gone from memory afterwards."""
    with _saying_what_else() if name == "dense" else nullcontext():
        model, tokenizer = source.load(Path(run.paths.cache), device)
    longest, texts = limits(model)["positions"], []
    for prompt in progress(run.prompts, f"generate ({name})", unit="prompt"):
        ids = prompt_ids(tokenizer, prompt, chat=run.chat, bos=source.begin_with_bos)
        fits = longest is None or len(ids) + run.tokens <= longest
        require(fits, "tokens", run.tokens, f"with the {len(ids)} of the prompt at most {longest} for this model")
        texts.append(continuation(model, tokenizer, ids, run.sampling))
    del model
    gc.collect()
    return texts


def _facts(text: Continuation, most: int) -> str:
    end = "ended by itself" if text.ended else f"cut at {most}"
    return f"{text.tokens} new tokens, {end}, repetition {text.repetition:.2f} ({NGRAM}-grams)"


def _printable(text: str) -> str:
    """Without what a terminal would obey: a broken model says any byte."""
    return "".join(each if each.isprintable() or each in "\n\t" else ascii(each)[1:-1] for each in text)


def _keep(
    run: GenerateConfig, config: dict[str, Any], how: dict[str, Any], said: dict[str, list[Continuation]]
) -> None:
    """Texts, their numbers and what decides them. `how`: what the config leaves to be found."""
    content = {
        "prompts": run.prompts, "said": {name: list(map(dataclasses.asdict, texts)) for name, texts in said.items()},
        "config": {key: value for key, value in config.items() if key != "paths"} | how, "ngram": NGRAM,
        "weights_sha256": {path.name: file_hash(path) for path in Stored(run.model_folder).files},
        "libraries": {name: version(name) for name in ("torch", "transformers")},
    }  # fmt: skip
    path = Path(run.paths.outputs) / "generations" / f"{content_hash(content)}.json"
    write_json(path, content)
    print(f"kept in {path}")
