"""Commands with bad inputs: each is refused in one line that names what is wrong, with exit code 2, and leaves nothing.

python scripts/bad_inputs.py [part of a name] [--every 1] [--jobs 2]

A process that has imported everything forks for each case, so that hundreds take minutes. Exit code 1 if one falls
short. A case's files are written into a folder of its own, where the command runs; only the cache may grow.
"""

import argparse
import gzip
import json
import os
import shlex
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from forked import said, start  # isort: skip (it sets variables that libraries read at their import)

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, MixtralConfig, Zamba2Config

import elsa
import elsa.model.loading
from elsa.checkpoint.saving import save
from elsa.export.stored import Stored
from elsa.export.writing import Sparse, export
from elsa.model.weights import prunable_weights

TINY = Path(elsa.model.loading.__file__).parent / "tiny"
SECONDS = 60
LONGEST = 500  # characters of a line
QUICK = ["eval.windows=2", "data.sequence_length=32"]
Files = Callable[[Path], object]


@dataclass(frozen=True)
class Case:
    """`says`: words that the line must have. `lines`: how many there may be; a sweep also names its runs."""

    name: str
    arguments: list[str]
    files: Files = lambda folder: None
    says: str = ""
    environment: dict[str, str | None] = field(default_factory=dict)
    lines: int = 1


# --- words and settings


WORDS = """\
''
=5
-
'~'
prun
plan evaluate
--cfg"""
SETTINGS = """\
--resolve
-p method
--cfg foo
--info foo
-sc
--experimental-rerun=x
-m 'seed=range(0,3,0)'
-m 'seed=range(0,1e400)'
-m 'method=[wanda],[alps]'
method=wanda x
--foo
-m --cfg job
'sparsity.ratio='"'"'0.5'
'eval.tasks=[a,b' eval=zero_shot
'seed=${nope}'
'paths.outputs=${oc.env:NO_SUCH_NAME}'
+sparsity.foo=1
methd.x=1
training.stepps=3
method=wandda
method=Wanda
Method=wanda
'method=[wanda]'
method=null
model=3
data=true
method._target_=os.system
tracker._target_=elsa.method.wanda.Wanda
method._target_=null
method._target_=elsa.method.wanda.nope
method._target_=elsa.nope.Nope
'sparsity={pattern:a}'
seed=0,1
method=../sparsity/2of4
--config-dir=/nonexistent
hydra.mode=FOO
--config-name=nope
'~model'
'~seed'
method=elsa_plus method.start=nope
method=finetuned method.start=3
method=swaps method.start=elsa
method=swaps method.start=dense
method=reconstruct method.start=best
method=swaps method.refit=maybe
method=finetuned/alps_swaps method.start.start=nope
reuse=always
activations=moon
device=tpu
device=cuda:99
model.dtype=int4
sparsity=n_of_m sparsity.pattern=x
sparsity=n_of_m sparsity.pattern=4:2
sparsity=n_of_m sparsity.pattern=3:5
sparsity=n_of_m
sparsity=n_of_m sparsity.pattern=0:4
sparsity=n_of_m sparsity.pattern=paired_3:8
sparsity=n_of_m sparsity.pattern=pared_4:8
sparsity=n_of_m 'sparsity.pattern=paired 4:8'
sparsity=n_of_m sparsity.pattern=transposable_4:8
sparsity=n_of_m sparsity.pattern=paired_4:10
sparsity=transposable_2of4 method=swaps
sparsity=paired_4of8 method=finetuned/alps_swaps
sparsity=paired_4of8 method=magnitude method.match_reference=true
sparsity=paired_4of8 sparsity.allocation=global
'model.exclude=[*.downproj]'
'model.include=[model.layer.0.*]'
'model.exclude=[model.*]'
'model.include=[]'
model.include=3
sparsity.allocation=fair
method=elsa sparsity.allocation=owl
method=finetuned method.start=magnitude sparsity.allocation=owl
method=wanda sparsity=2of4 sparsity.allocation=owl
method=wanda method.few_tokens=some
method=swaps method.few_tokens=null
method=sparsellm 'model.exclude=[*.mlp.down_proj]'
method=elsa_plus method.start=sparsellm 'model.exclude=[*.layers.1.mlp.up_proj]'
method=elsa method.few_tokens=refuse
'sparsity.levels={*.mpl.*:0.9}'
'sparsity.levels={*.mlp.*:1}'
'sparsity.levels={*.mlp.*:high}'
'sparsity.levels={*:0}'
'sparsity.levels={}'
sparsity.levels=/nonexistent.txt
sparsity.levels=/dev/null
sparsity.levels=3
'sparsity.levels={*:0.5}' sparsity.allocation=global
sparsity.allocation=levels
sparsity=2of4 'sparsity.levels={*:0.5}'
sparsity=2of4 sparsity.allocation=global
method=elsa training.optimizer=adamw
method=elsa training.autocast=float16
method=elsa method.projection=x
eval.formula=x
eval.split=dev
eval.draw=random
eval.autocast=float16
method=elsa penalty=square
method=elsa precision=int4
method=elsa precision.state=int4
method=elsa precision.moments=4bit
method=elsa precision.weights=float8
training.steps=many
data.sequence_length=3.5
seed=true
'seed=[1]'
seed=null
method=elsa training.optimizer=sgd
method=elsa training.accumulation=3
method=elsa training.steps=4 method.interval=8
method=elsa training.steps=4 training.warmup_steps=4
tracker=wandb tracker.mode=on"""
COMMANDS = """\
evaluate
evaluate checkpoint=nope
export
export checkpoint=nope
export checkpoint=. export=zip
export checkpoint=. dtype=int3
export checkpoint=. export=dense dtype=int8
export checkpoint=. to=3
export checkpoint=.
bench
bench checkpoint=nope
bench checkpoint=.
bench checkpoint=. batch=1
bench checkpoint=. 'batch=[0]'
bench checkpoint=. 'forms=[x]'
bench checkpoint=. device=gpu
generate
generate checkpoint=nope prompt=x
generate checkpoint=. prompt=x
generate checkpoint=. 'prompt=[]'
generate checkpoint=. prompt=x tokens=0
generate checkpoint=. prompt=x temperature=-1.0
generate checkpoint=. prompt=x top_p=2.0
push
push checkpoint=nope repo=a/b license=mit
push checkpoint=. repo=a/b license=mit
push checkpoint=. repo=a license=mit
push checkpoint=. repo=a/b
push checkpoint=. repo=a/b license=MIT!
push checkpoint=. repo=../b license=mit
report
report 'records=[nope]'
report every=0
report every=30
reproduce
reproduce record=nope
status
status sweep=nope
runs delete=[nope]
runs delete=nope*
runs 'delete=['"'"''"'"']'
runs delete=3
runs keep=[nope]
runs unkeep=nope
runs compare=[a,b]
runs compare=[a]
runs compare=a
runs delete=[a] keep=[a]
runs compare=[a,b] delete=[a]
runs sort=weight
runs sort=--size
runs format=xml
runs state=done
runs seed=x
runs 'seed=[x]'
runs older_than=week
runs older_than=nan
runs older_than=-1
runs yes=maybe
runs methd=wanda
runs only.nope=x
runs delete
completion
completion csh
completion bash zsh
dashboard
fetch
fetch paths.mirror=m
plan method=wanda
reproduce record=x threads=0
dashboard entity=x save=true"""


def words() -> Iterator[Case]:
    for line in WORDS.split("\n"):
        yield Case(f"word {line}", shlex.split(line))
    for line in SETTINGS.split("\n"):
        yield Case(f"word {line}", [*QUICK, *shlex.split(line)])
    for command in ("plan", "doctor", "fetch"):
        yield Case(f"{command} -m", [command, "-m", "method=elsa,wanda"], says=command, lines=2)
        yield Case(f"{command} sweep", [command, "sweep=layerwise_tiny"], says=command, lines=2)
    sweeps = {
        "slots": "hydra.launcher.cpu_slots=0",
        "threads": "hydra.launcher.cpu_threads=-1",
        "gpus": "hydra.launcher.gpus=[7]",
        "per job": "hydra.launcher.gpus_per_job=0",
        "launcher": "hydra/launcher=nope",
        "cells": "sparsity.ratio=1,2",
        "glob": "method=glob(z*)",
        "range": "sparsity.ratio=range(2,4)",
        "key": "nope=1,2",
    }
    for name, argument in sweeps.items():
        yield Case(f"sweep {name}", ["-m", "seed=0,1", *QUICK, argument], lines=6)
    for line in COMMANDS.split("\n"):
        yield Case(
            f"command {line}", shlex.split(line), environment={"WANDB_API_KEY": None, "HOME": "/nonexistent"}, lines=2
        )


NUMBERS = {
    "method=elsa": [
        "training.steps",
        "training.batch_size",
        "training.learning_rate",
        "training.warmup_steps",
        "training.decay_fraction",
        "training.beta1",
        "training.beta2",
        "training.gradient_clip",
        "training.distillation",
        "training.hidden_distillation",
        "training.distinct_windows",
        "method.interval",
        "probe_every",
        "seed",
        "checkpoint.every_minutes",
        "checkpoint.keep",
        "precision.loss_chunk",
        "data.sequence_length",
    ],
    "method=elsa_plus": [
        "method.retention",
        "method.dual_step",
        "method.dual_from",
        "method.dual_limit",
        "method.polish_fraction",
        "method.ramp_fraction",
        "method.ramp_from",
    ],
    "method=best": [
        "method.warmup_fraction",
        "method.least_density",
        "method.ramp_fraction",
        "method.interval",
    ],
    "method=swaps": ["method.candidates", "method.most", "method.calibration_windows"],
    "method=reconstruct": ["method.epochs", "method.learning_rate"],
    "method=alps": [
        "method.damping",
        "method.rho",
        "method.iterations",
        "method.update_interval",
        "method.refine_iterations",
        "method.refine_tolerance",
        "method.calibration_windows",
    ],
    "method=l_admm": ["method.iterations", "method.mask_iterations", "method.damping"],
    "method=sparsegpt": ["method.damping", "method.block_size"],
    "method=safe": [
        "method.epochs",
        "method.learning_rate",
        "method.penalty",
        "method.perturbation",
        "method.interval",
    ],
    "method=sparsellm": ["method.iterations", "method.alpha", "method.beta", "method.activation_steps"],
    "method=magnitude": ["sparsity.ratio", "eval.windows", "eval.draw_seed", "data.held_out data=text"],
    "method=elsa penalty=constant": ["penalty.value"],
    "method=elsa penalty=cosine": ["penalty.end"],
    "method=dense eval=zero_shot": ["eval.limit", "eval.num_fewshot", "eval.batch_size"],
    "method=dense eval=generation": ["eval.limit", "eval.num_fewshot", "eval.batch_size", "eval.max_new_tokens"],
}


def numbers() -> Iterator[Case]:
    for base, names in NUMBERS.items():
        for name in names:
            key, *more = name.split()
            for value in ("-1", "nan", "inf"):
                says = key.split(".")[-1]
                yield Case(f"number {key}={value} {base}", [*base.split(), *more, f"{key}={value}"], says=says)


# --- text and tokens

LINE = '{"text": "some words"}\n'


def texts() -> Iterator[Case]:
    contents: dict[str, bytes] = {
        "empty.txt": b"",
        "blank.txt": b" \n",
        "empty.jsonl": b"",
        "picture.png": b"\x89PNG\r\n\x1a\n\0",
        "nul.txt": b"a\0b",
        "latin.txt": "naïve".encode("latin-1"),
        "utf16.txt": "text".encode("utf-16"),
        "utf16.jsonl": LINE.encode("utf-16"),
        "null.jsonl": b'{"text": null}\n',
        "number.jsonl": b'{"text": 3}\n',
        "list.jsonl": b'{"text": ["a"]}\n',
        "array.jsonl": b"[1]\n",
        "other.jsonl": b'{"txt": "a"}\n',
        "cut.jsonl": LINE.encode() + b'{"te',
        "gap.jsonl": (LINE + "\n" + LINE).encode(),
        "surrogate.jsonl": b'{"text": "\\ud800"}\n',
        "broken.json": b"[{",
        "empty.json": b"[]",
        "words.json": b'["a"]',
        "other.csv": b"id,words\n1,a\n",
        "header.csv": b"text\n",
        "open.csv": b'text\n"a',
        "junk.parquet": b"PAR1 junk",
        "cut.jsonl.gz": gzip.compress(LINE.encode() * 50)[:30],
        "junk.gz": b"junk",
        "short.txt": b"a",
        "deep.jsonl": b"[" * 100_000,
    }
    for name, content in contents.items():
        for split in ("train", "test"):
            if (name, split) == ("short.txt", "train"):
                continue  # it is repeated
            fine = {"train": "fine.txt", "test": "fine.txt"} | {split: name}

            def files(folder: Path, name: str = name, content: bytes = content) -> None:
                (folder / "fine.txt").write_text("some words and more " * 500)
                (folder / name).write_bytes(content)

            arguments = [f"data.{each}=[{file}]" for each, file in fine.items()]
            yield Case(
                f"text {split} {name}",
                ["method=wanda", "data=text", *arguments, *QUICK, "method.calibration_windows=2"],
                files,
            )
    yield Case("text no files", ["method=wanda", "data=text", *QUICK], says="train")
    yield Case("text absent", ["method=wanda", "data=text", "data.train=[nope]", *QUICK], says="nope")
    yield Case(
        "text empty folder",
        ["method=wanda", "data=text", "data.train=[e]", "data.held_out=0.1", *QUICK],
        lambda f: (f / "e").mkdir(),
    )
    yield Case(
        "text too long windows",
        ["method=magnitude", "data.sequence_length=100000", "eval.windows=2"],
        says="sequence_length",
    )


def tokens() -> Iterator[Case]:
    def stored(tensor: torch.Tensor) -> Files:
        tensors = {"train": tensor.clone(), "test": tensor.clone()}
        return lambda folder: save_file(tensors, folder / "t.safetensors")

    ids = torch.randint(0, 2048, (8, 32))
    wrong: dict[str, Files] = {
        "negative": stored(-ids - 1),
        "beyond": stored(ids + 2048),
        "flat": stored(ids.flatten()),
        "float": stored(ids.float()),
        "bool": stored(ids > 5),
        "one token": stored(ids[:, :1]),
        "no window": stored(ids[:0]),
        "huge": stored(ids + 2**40),
        "scalar": stored(ids[0, 0]),
        "few": stored(ids[:1]),
        "long": stored(ids.repeat(1, 100)),
        "junk": lambda folder: (folder / "t.safetensors").write_bytes(b"junk"),
        "empty": lambda folder: (folder / "t.safetensors").touch(),
        "folder": lambda folder: (folder / "t.safetensors").mkdir(),
        "absent": lambda folder: None,
        "other names": lambda folder: save_file({"x": ids}, folder / "t.safetensors"),
    }
    given = ["method=wanda", "method.calibration_windows=2", "eval.windows=2", "data=tokens", "data.path=t.safetensors"]
    for name, files in wrong.items():
        yield Case(f"tokens {name}", given, files)


def hub_sets() -> Iterator[Case]:
    given = ["method=wanda", "method.calibration_windows=2", *QUICK, "paths.mirror=mirror"]
    wrong = {
        "": "data.name=???",
        "data.name=3": "data.name",
        "data.name=c4": "data.name",
        "data.name=../c4": "hub cannot be reached",
        "data.name=owner/set": "hub cannot be reached",
        "data.name=owner/set data.revision=main": "hub cannot be reached",
        f"data.name=owner/set data.revision={'a' * 40}": "hub cannot be reached",
        "data.name=owner/set data.held_out=0.5": "held_out",
        "data.name=owner/set data.buffer_size=0": "buffer_size",
        "data.name=owner/set data.documents_used=0": "documents_used",
    }
    for settings, says in wrong.items():
        for data in ("hub", "hub_chat"):
            yield Case(f"{data} {settings}", [*given, f"data={data}", *settings.split()], says=says)
    for data in ("slimpajama", "fineweb_edu"):
        yield Case(data, [*given, f"data={data}"], says="hub cannot be reached")


TEMPLATE = "{% for message in messages %}{{ message.role + ': ' + message.content }}{% endfor %}"
CHAT = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n'


def chats() -> Iterator[Case]:
    files = ["data=chat", "data.train=[c.jsonl]", "data.test=[c.jsonl]"]
    given = ["method=wanda", "method.calibration_windows=2", *files, *QUICK, "model=pretrained", "model.path=m"]

    def case(name: str, says: str, *settings: str, chats: str = CHAT, template: str | None = TEMPLATE) -> Case:
        def write(folder: Path) -> None:
            shutil.copytree(TINY, folder / "m")
            (folder / "c.jsonl").write_text(chats)
            if template is not None:
                (folder / "m/chat_template.jinja").write_text(template)

        return Case(f"chat {name}", [*given, *settings], write, says)

    user = '{"role": "user", "content": "a"}'
    yield case("no template", "no chat template", template=None)
    yield case("broken template", "does not take the conversation", template="{% if %}")
    yield case("refusing template", "alternate", template="{{ raise_exception('roles must alternate') }}")
    yield case("unstable template", "generation", template="{{ messages | length }}" + TEMPLATE)
    yield case("short windows", "has an answer", "data.sequence_length=2")
    yield case("lost", "data.lost=x", "data.lost=x")
    yield case("lost refused", "data.lost=refuse", "data.lost=refuse", "data.sequence_length=2")
    yield case("share", "data.most_cut=2", "data.most_cut=2")
    yield case("no answers", "has an answer", chats=f'{{"messages": [{user}]}}\n')
    wrong = ["", "3", "null", "[]", "[3]", '["a"]', "{}", user, f"[{user}, null]", '[{"role": "user"}]']
    wrong += [
        '[{"role": 3, "content": "a"}]',
        '[{"role": "user", "content": "\\ud800"}]',
        '[{"from": "a", "value": "b"}]',
    ]
    for messages in wrong:
        yield case(f"messages {messages}", "c.jsonl", chats=f'{{"messages": {messages}}}\n')
    yield case("plain text", "plain text", "data.train=[m/chat_template.jinja]")
    yield case("texts", "no `messages`", chats=LINE)


# --- models


# Each changes the folder `m` of a model.


def config(**changes: object) -> Files:
    def change(folder: Path) -> None:
        known = json.loads((folder / "m/config.json").read_text())
        (folder / "m/config.json").write_text(json.dumps(known | changes))

    return change


def weights(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Files:
    def apply(folder: Path) -> None:
        save_file(change(load_file(TINY / "model.safetensors")), folder / "m/model.safetensors", {"format": "pt"})

    return apply


def content(name: str, data: bytes | None) -> Files:
    return lambda folder: (folder / "m" / name).unlink() if data is None else (folder / "m" / name).write_bytes(data)


def damages() -> dict[str, Files]:
    """What can be wrong with the folder `m` of a model."""
    whole = (TINY / "model.safetensors").read_bytes()
    norm = "model.norm.weight"
    return {
        "cut": content("model.safetensors", whole[: len(whole) // 2]),
        "empty": content("model.safetensors", b""),
        "junk": content("model.safetensors", b"junk" * 99),
        "absent": content("model.safetensors", None),
        "lfs": content("model.safetensors", b"version https://git-lfs.github.com/spec/v1\n"),
        "no config": content("config.json", None),
        "broken config": content("config.json", b"{"),
        "list config": content("config.json", b"[]"),
        "no tokenizer": content("tokenizer.json", None),
        "broken tokenizer": content("tokenizer.json", b"{"),
        "empty tokenizer": content("tokenizer.json", b"{}"),
        "t5": config(model_type="t5"),
        "bert": config(model_type="bert"),
        "vit": config(model_type="vit"),
        "clip": config(model_type="clip"),
        "unknown type": config(model_type="nope"),
        "no type": config(model_type=None),
        "gptq": config(quantization_config={"quant_method": "gptq", "bits": 4}),
        "awq": config(quantization_config={"quant_method": "awq"}),
        "bitsandbytes": config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "rope": config(rope_parameters={"rope_type": "nope", "rope_theta": 1e4}),
        "no heads": config(num_attention_heads=0),
        "vocabulary": config(vocab_size=2050),
        "small vocabulary": config(vocab_size=100),
        "hidden": config(hidden_size=100),
        "layers": config(num_hidden_layers=2),
        "more layers": config(num_hidden_layers=20),
        "negative layers": config(num_hidden_layers=-1),
        "text size": config(hidden_size="big"),
        "missing": weights(lambda t: {n: v for n, v in t.items() if ".layers.1." not in n}),
        "no norm": weights(lambda t: {n: v for n, v in t.items() if n != norm}),
        "extra": weights(lambda t: t | {"extra": torch.ones(2)}),
        "renamed": weights(lambda t: {f"x.{n}": v for n, v in t.items()}),
        "nan": weights(lambda t: t | {norm: t[norm] * torch.nan}),
        "inf": weights(lambda t: t | {norm: t[norm] + torch.inf}),
        "shape": weights(lambda t: t | {norm: torch.ones(7)}),
    }


def models() -> Iterator[Case]:
    def damaged(damage: Files) -> Files:
        def files(folder: Path) -> None:
            shutil.copytree(TINY, folder / "m")
            damage(folder)

        return files

    for name, damage in damages().items():
        given = ["model=pretrained", "model.path=m", *QUICK]
        yield Case(f"model {name}: prune", ["method=magnitude", *given], damaged(damage))
        yield Case(f"model {name}: evaluate", ["evaluate", "checkpoint=m", *QUICK], damaged(damage))
        yield Case(f"model {name}: export", ["export", "checkpoint=m", "export=dense"], damaged(damage))
        if name not in ("nan", "inf"):  # which takes reading all of the weights
            yield Case(f"model {name}: doctor", ["doctor", "method=magnitude", *given], damaged(damage))
    for path in ("nope", "./nope", "/nope", "a/b/c", "facebook/opt-125m", "''", "..", "/etc/passwd"):
        yield Case(f"model path {path}", ["method=magnitude", "model=pretrained", f"model.path={path}", *QUICK])
    for name in ("../evil", "a/b", "..", ".x", "''", "x" * 200, "'a b'", "'<script>'", '"a\\nb"', "~"):
        yield Case(f"model name {name[:9]}", ["method=magnitude", f"model.name={name}", *QUICK], says="name")


def experts() -> Iterator[Case]:
    def write(folder: Path) -> None:
        shutil.copytree(TINY, folder / "m", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
        torch.manual_seed(0)
        vocabulary = json.loads((TINY / "config.json").read_text())["vocab_size"]
        sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 32, "num_hidden_layers": 1}
        sizes |= {"num_attention_heads": 2}
        sizes |= {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 1, "vocab_size": vocabulary}
        AutoModelForCausalLM.from_config(MixtralConfig(**sizes)).save_pretrained(folder / "m")

    given = ["model=pretrained", "model.path=m", *QUICK]
    uneven = ["method=elsa", "devices=3", "training.batch_size=9"]
    yield Case("experts uneven", [*given, *uneven], write, says="devices=3")


def other_decoders() -> Iterator[Case]:
    def pictures(folder: Path) -> None:
        shutil.copytree(TINY, folder / "m")
        (folder / "m/config.json").write_text(json.dumps({"model_type": "blip"}))

    def shared(folder: Path) -> None:
        shutil.copytree(TINY, folder / "m", ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
        vocabulary = json.loads((TINY / "config.json").read_text())["vocab_size"]
        sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 3, "hybrid_layer_ids": [1, 2]}
        sizes |= {"num_attention_heads": 4, "num_key_value_heads": 4, "attention_head_dim": 16, "num_mem_blocks": 1}
        sizes |= {"mamba_d_state": 8, "mamba_headdim": 16, "n_mamba_heads": 4, "mamba_ngroups": 1, "adapter_rank": 4}
        config = Zamba2Config(**sizes, vocab_size=vocabulary, layers_block_type=["mamba", "hybrid", "hybrid"])
        AutoModelForCausalLM.from_config(config).save_pretrained(folder / "m")

    given = ["model=pretrained", "model.path=m", *QUICK]
    yield Case("wrapper of pictures", ["method=magnitude", *given], pictures, says="wants pixel_values")
    for method in ("safe", "sparsellm", "reconstruct"):
        yield Case(f"wrapper shared blocks {method}", [f"method={method}", *given], shared, says="share model.layers")


def sparse_damages() -> dict[str, Files]:
    """What can be wrong with the folder `m` of an exported model."""

    def quantization(change: Callable[[dict[str, Any]], object]) -> Files:
        def apply(folder: Path) -> None:
            known = json.loads((folder / "m/config.json").read_text())
            change(known["quantization_config"])
            (folder / "m/config.json").write_text(json.dumps(known))

        return apply

    def entry(key: str, value: object) -> Files:
        return quantization(lambda known: known["modules"][next(iter(known["modules"]))].update({key: value}))

    def without(part: str) -> Files:
        def apply(folder: Path) -> None:
            tensors = load_file(folder / "m/elsa.safetensors")
            tensors.pop(next(name for name in tensors if name.endswith(part)))
            save_file(tensors, folder / "m/elsa.safetensors", {"format": "pt"})

        return apply

    return {
        "no modules": quantization(lambda known: known.pop("modules")),
        "list of modules": quantization(lambda known: known.update(modules=[])),
        "no module": quantization(lambda known: known.update(modules={})),
        "number for an entry": quantization(lambda known: known["modules"].update({next(iter(known["modules"])): 3})),
        "unknown module": quantization(lambda known: known["modules"].update(x=next(iter(known["modules"].values())))),
        "version": quantization(lambda known: known.update(version=99)),
        "layout": entry("layout", "zip"),
        "shape": entry("shape", ["a", "b"]),
        "flat shape": entry("shape", [3]),
        "swapped shape": entry("shape", [512, 192]),
        "values": entry("values", "many"),
        "checksum": entry("crc32", 1),
        "no checksum": entry("crc32", None),
        "no values": without("weight_values"),
        "no norm": without("norm.weight"),
        "cut": lambda folder: (folder / "m/elsa.safetensors").write_bytes(
            (folder / "m/elsa.safetensors").read_bytes()[:5000]
        ),
        "absent": lambda folder: (folder / "m/elsa.safetensors").unlink(),
    }


def sparse_models() -> Iterator[Case]:
    def damaged(damage: Files) -> Files:
        def files(folder: Path) -> None:
            export_tiny(folder / "m")
            damage(folder)

        return files

    for name, damage in sparse_damages().items():
        given = ["model=pretrained", "model.path=m", *QUICK]
        yield Case(f"sparse {name}: prune", ["method=magnitude", *given], damaged(damage))
        yield Case(f"sparse {name}: evaluate", ["evaluate", "checkpoint=m", *QUICK], damaged(damage))
        yield Case(f"sparse {name}: export", ["export", "checkpoint=m", "export=dense"], damaged(damage))


def export_tiny(to: Path) -> None:
    """The embedded model at 80 %, exported."""
    model, tokenizer = elsa.load(TINY)
    for weight in prunable_weights(model).values():
        weight.value_OI[:, torch.arange(weight.shape_OI[1]) % 5 > 0] = 0
    with tempfile.TemporaryDirectory() as folder:
        save(model, tokenizer, Path(folder) / "m")
        export(Stored(Path(folder) / "m"), dict.fromkeys(prunable_weights(model), False), Sparse(), to)


# --- places, records, tasks


def places() -> Iterator[Case]:
    def a_file(folder: Path) -> None:
        (folder / "f").write_text("no folder")

    for key in ("outputs", "cache"):
        for where in ("f", "f/x", "/sys/kernel/x", "/proc/x", "x" * 300, "/dev/null"):
            for command in ("prune", "doctor"):
                given = ["method=magnitude", f"paths.{key}={where}", *QUICK]
                yield Case(
                    f"{key} {where[:14]}: {command}", [command, *given], a_file, says="" if command == "doctor" else key
                )
    yield Case("mirror absent", ["method=dense", "eval=zero_shot", "paths.mirror=nope"], says="mirror")
    yield Case("no home", ["method=magnitude", "paths.cache=~no_such_user/x", *QUICK], says="cache")


def records() -> Iterator[Case]:
    contents = {
        "empty": "",
        "junk": "junk",
        "list": "[]",
        "number": "3",
        "format 1": '{"format": 1}',
        "format 99": '{"format": 99}',
        "bare": '{"format": 3}',
        "no settings": '{"format": 3, "name": "a", "evaluations": []}',
        "null": "null",
        "evaluations": '{"format": 3, "evaluations": 3}',
        "cut": '{"format": 3, "na',
        "two": '{"format": 3}{"format": 3}',
    }
    for name, text in contents.items():

        def files(folder: Path, text: str = text) -> None:
            (folder / "r.jsonl").write_text(f"{text}\n")
            (folder / "out/runs/a").mkdir(parents=True)
            (folder / "out/runs/a/result.json").write_text(text)
            (folder / "out/sweeps/s").mkdir(parents=True)
            (folder / "out/sweeps/s/manifest.json").write_text(text)

        yield Case(f"record {name}: report a file", ["report", "records=[r.jsonl]"], files)
        yield Case(f"record {name}: report a folder", ["report", "paths.outputs=out"], files, lines=2)
        yield Case(f"record {name}: reproduce", ["reproduce", "record=out/runs/a"], files)
        yield Case(f"record {name}: reproduce a line", ["reproduce", "record=r.jsonl:1"], files)
        yield Case(f"record {name}: evaluate", ["evaluate", "checkpoint=out/runs/a", *QUICK], files)
        yield Case(f"record {name}: status", ["status", "paths.outputs=out"], files)
    for name, data in {"utf-16": '{"format": 3}'.encode("utf-16"), "binary": b"\x89PNG\0"}.items():

        def binary(folder: Path, data: bytes = data) -> None:
            (folder / "r.jsonl").write_bytes(data)

        yield Case(f"record {name}", ["report", "records=[r.jsonl]"], binary)


def tasks() -> Iterator[Case]:
    fine = {"id": "a", "question": "Which?", "choices": {"text": ["x", "y"], "label": ["A", "B"]}, "answerKey": "A"}

    def mirror(*lines: str) -> Files:
        def files(folder: Path) -> None:
            (folder / "mir/arc_easy").mkdir(parents=True)
            (folder / "mir/arc_easy/test.jsonl").write_text("".join(f"{line}\n" for line in lines))

        return files

    good = json.dumps(fine)
    wrong = {
        "empty": mirror(),
        "junk": mirror("junk"),
        "column": mirror(json.dumps({k: v for k, v in fine.items() if k != "question"})),
        "later junk": mirror(good, "{"),
        "label": mirror(good, json.dumps(fine | {"answerKey": "Z"})),
        "list": mirror("[1]"),
        "no split": lambda folder: (folder / "mir/arc_easy").mkdir(parents=True),
        "no task": lambda folder: (folder / "mir").mkdir(),
    }
    for name, files in wrong.items():
        yield Case(
            f"task {name}", ["method=dense", "eval=zero_shot", "eval.tasks=[arc_easy]", "paths.mirror=mir"], files
        )
    for task in ("nope", "arc_esy", "''", "gsm8k", "../x", "3"):
        yield Case(
            f"task name {task}",
            ["method=dense", "eval=zero_shot", f"eval.tasks=[{task}]", "paths.mirror=mir"],
            mirror(good),
        )
    yield Case("task none", ["method=dense", "eval=zero_shot", "eval.tasks=[]", "paths.mirror=mir"], mirror(good))
    yield Case("task hub", ["method=dense", "eval=zero_shot", "eval.tasks=[arc_easy]"])
    yield Case(
        "task shots",
        ["method=dense", "eval=zero_shot", "eval.tasks=[arc_easy]", "eval.num_fewshot=2", "paths.mirror=mir"],
        mirror(good),
    )


def written() -> Iterator[Case]:
    good = json.dumps({"question": "How many?", "answer": "#### 3"})

    def mirror(test: str, train: str | None = good) -> Files:
        def files(folder: Path) -> None:
            (folder / "mir/gsm8k").mkdir(parents=True)
            (folder / "mir/gsm8k/test.jsonl").write_text(f"{test}\n")
            if train is not None:
                (folder / "mir/gsm8k/train.jsonl").write_text(f"{train}\n")

        return files

    base = ["method=dense", "eval=generation", "paths.mirror=mir"]
    wrong = {
        "no examples": ([], mirror(good, None), "num_fewshot"),
        "junk": ([], mirror("{"), "gsm8k/test.jsonl:1"),
        "column": (["eval.num_fewshot=0"], mirror('{"question": "a"}'), "gsm8k"),
        "likelihoods": (["eval.tasks=[arc_easy]"], mirror(good), "eval=zero_shot"),
        "no tasks": (["eval.tasks=[]"], mirror(good), "tasks"),
        "no template": (["eval.apply_chat_template=true"], mirror(good), "chat template"),
        "no room": (["eval.max_new_tokens=99999"], mirror(good), "max_new_tokens"),
        "no switch": (["eval.apply_chat_template=maybe"], mirror(good), "apply_chat_template"),
        "no text": (["eval.system_instruction=3"], mirror(good), "system_instruction"),
    }
    for name, (more, files, says) in wrong.items():
        yield Case(f"generation {name}", [*base, *more], files, says=says)
    full = ["method=dense", "eval=full", "eval.parts.zero_shot.tasks=[arc_easy]", "paths.mirror=mir"]
    yield Case("generation no mirror", full, lambda folder: (folder / "mir").mkdir(), says="elsa fetch")


def cases() -> list[Case]:
    made = (
        words, numbers, texts, hub_sets, chats, tokens, models, experts, other_decoders, sparse_models, places, records,
        tasks, written,
    )  # fmt: skip
    return [case for make in made for case in make()]


# --- running them


def shortcomings(case: Case, folder: Path, before: set[Path], code: int | None) -> list[str]:
    """What the answer lacks. `code`: None where there was none in time."""
    lines = said(folder)
    last = lines[-1] if lines else ""
    found_now = {path for path in folder.rglob("*") if path.is_file()} - before
    left = {path for path in found_now if path.name != ".lock" or path.parent not in before}
    left -= {folder / "_out", folder / "_err"}
    found = {
        f"exit code {code}": code != 2,
        "a traceback": any("Traceback" in line for line in lines),
        f"{len(lines)} lines": not 1 <= len(lines) <= case.lines,
        "no elsa:": not last.startswith("elsa: "),
        f"a line of {len(last)} characters": len(last) > LONGEST,
        f"nothing of {case.says!r}": case.says not in last,
        f"left {len(left)} files ({', '.join(sorted(path.name for path in left)[:3])})": bool(left),
    }
    return [what for what, wrong in found.items() if wrong]


def run(chosen: list[Case], jobs: int, base: Path) -> int:
    """How many fall short; each is printed."""
    waiting, short = list(enumerate(chosen)), 0
    running: dict[int, tuple[Case, Path, set[Path], float]] = {}
    while waiting or running:
        while waiting and len(running) < jobs:
            number, case = waiting.pop(0)
            folder = base / str(number)
            folder.mkdir()
            case.files(folder)
            process = start(case.arguments, folder, case.environment | {"ELSA_CACHE": str(base / "cache")})
            running[process] = (
                case,
                folder,
                {path for path in folder.rglob("*") if not path.name.startswith("_")},
                time.monotonic(),
            )
        for process, (case, folder, before, began) in list(running.items()):
            ended, status = os.waitpid(process, os.WNOHANG)
            late = time.monotonic() - began > SECONDS
            if not ended and late:
                os.kill(process, signal.SIGKILL)
                os.waitpid(process, 0)
            if ended or late:
                del running[process]
                wrong = shortcomings(case, folder, before, os.waitstatus_to_exitcode(status) if ended else None)
                short += bool(wrong)
                if wrong:
                    last = (said(folder) or ["nothing"])[-1]
                    print(
                        f"{case.name}: {'; '.join(wrong)}\n    elsa {' '.join(case.arguments)[:150]}\n    {last[:200]}",
                        flush=True,
                    )
                shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.01)
    return short


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", default="", help="of the names of the cases to run")
    parser.add_argument("--every", type=int, default=1, help="run one case in so many, spread over all kinds")
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    chosen = [case for case in cases() if options.part in case.name][:: options.every]
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="elsa-bad-inputs-") as name:
        short = run(chosen, options.jobs, Path(name))
    print(f"{len(chosen)} bad inputs in {time.monotonic() - began:.0f} s, {short} not refused as they should be")
    sys.exit(short > 0)


if __name__ == "__main__":
    main()
