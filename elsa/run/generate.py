"""`elsa generate checkpoint=<folder> prompt=<text>`: the quickest look at whether a pruned model still speaks."""

import dataclasses
import gc
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
from elsa.decoding.generation import NGRAM, Continuation, continuation, prompt_ids
from elsa.errors import UserError, require
from elsa.export.stored import Stored
from elsa.files import content_hash, file_hash, file_name, write_json
from elsa.model.loading import ModelSource, Pretrained, limits
from elsa.record.record import Record
from elsa.run.saved import record_of

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
    said = {name: _said(run, source, device) for name, source in asked.items()}
    for number, prompt in enumerate(run.prompts):
        print(f"> {prompt}")
        for name, texts in said.items():
            print(f"\n[{name}] {_facts(texts[number], run.tokens)}\n{texts[number].text}")
        print()
    if run.compare and "dense" not in said:
        print(f"{run.checkpoint} has no record of a run, so its dense model is not known")
    print(verdict(said))
    _keep(run, config, said)


def verdict(said: dict[str, list[Continuation]]) -> str:
    """In words, from the numbers alone."""
    means = {name: sum(each.repetition for each in texts) / len(texts) for name, texts in said.items()}
    pruned, dense = means["pruned"], means.get("dense")
    words = f"pruned repeats {pruned:.0%} of its {NGRAM}-grams"
    if dense is None:
        return words
    return f"{words}, dense {dense:.0%}" + (": it repeats itself" if pruned - dense >= _REPEATS else "")


def _asked(run: GenerateConfig, record: Record | None) -> dict[str, ModelSource]:
    """The models by name, in the order in which they are asked. Raises `UserError` for one that is not there."""
    saved = {} if record is None else record["config"]["model"]
    own = Stored(run.model_folder).dtype or (record or {}).get("dtype") or saved.get("dtype") or "float32"
    pruned = Pretrained(
        name=file_name(run.model_folder.resolve().name), path=str(run.model_folder), dtype=run.dtype or own,
        begin_with_bos=saved.get("begin_with_bos", False),
    )  # fmt: skip
    if not run.compare or "_target_" not in saved:
        return {"pruned": pruned}
    try:
        dense = build(_Parent, {"model": saved}).model
        dense.check()
    except UserError as error:
        hint = "compare=false asks the pruned one alone"
        raise UserError(f"compare=true: the dense model of its run is not there ({error}); {hint}") from error
    return {"dense": dataclasses.replace(dense, dtype=pruned.dtype), "pruned": pruned}


def _said(run: GenerateConfig, source: ModelSource, device: str) -> list[Continuation]:
    model, tokenizer = source.load(Path(run.paths.cache), device)
    longest, texts = limits(model)["positions"], []
    for prompt in run.prompts:
        ids = prompt_ids(tokenizer, prompt, chat=run.chat, bos=source.begin_with_bos)
        fits = longest is None or len(ids) + run.tokens <= longest
        require(fits, "tokens", run.tokens, f"with the {len(ids)} of the prompt at most {longest} for this model")
        texts.append(continuation(model, tokenizer, ids, run.sampling))
    del model
    gc.collect()
    return texts


def _facts(text: Continuation, most: int) -> str:
    end = "ended by itself" if text.ended else f"cut at {most}"
    return f"{text.tokens} tokens, {end}, repetition {text.repetition:.2f} ({NGRAM}-grams)"


def _keep(run: GenerateConfig, config: dict[str, Any], said: dict[str, list[Continuation]]) -> None:
    content = {
        "prompts": run.prompts, "said": {name: list(map(dataclasses.asdict, texts)) for name, texts in said.items()},
        "config": {key: value for key, value in config.items() if key != "paths"}, "ngram": NGRAM,
        "weights_sha256": {path.name: file_hash(path) for path in Stored(run.model_folder).files},
        "libraries": {name: version(name) for name in ("torch", "transformers")},
    }  # fmt: skip
    path = Path(run.paths.outputs) / "generations" / f"{content_hash(content)}.json"
    write_json(path, content)
    print(f"kept in {path}")
