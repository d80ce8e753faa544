"""The way in from Python gives what the command line gives."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import elsa
from elsa.errors import UserError
from elsa.model.weights import prunable_weights
from tests.conftest import random_model
from tests.method.methods import TRAINING
from tests.run.conftest import elsa as elsa_command  # noqa: F401
from tests.run.runs import of, records

SMALL = ["data.sequence_length=16", "method.calibration_windows=4"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELSA_CACHE", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def my_text(tmp_path):
    """Own text as a user has it: one file of documents, no splits."""
    file = tmp_path / "my.jsonl"
    words = (f"{number} the cat sat on mat {number * 7919 % 1000} " * 4 for number in range(300))
    file.write_text("".join(json.dumps({"text": each}) + "\n" for each in words))
    return file


def test_a_few_lines_prune_an_own_model_on_own_text(here, saved_model, my_text):
    run = elsa.prune(model=saved_model, method="wanda", sparsity=0.5, data=[my_text], overrides=SMALL)
    assert run.perplexity == run.record["perplexity"]["held_out"]["perplexity"] > 1
    assert run.sparsity == pytest.approx(0.5, abs=1e-3)
    assert run.folder.is_dir()
    for weight in prunable_weights(run.model).values():
        assert float((weight.value_OI == 0).float().mean()) == pytest.approx(0.5, abs=0.02)
    model, tokenizer = elsa.load(run.folder)
    assert all(torch.equal(value, run.model.state_dict()[key]) for key, value in model.state_dict().items())
    assert tokenizer.decode(tokenizer("the cat")["input_ids"]) == "the cat"


def test_it_is_the_run_of_the_command_line(elsa_command, saved_model, corpus):  # noqa: F811
    command = ["method=sparsegpt", "sparsity=n_of_m", "sparsity.pattern=2:4", "method.calibration_windows=4"]
    assert elsa_command(*command)[0] == 0
    folder, record = of("sparsegpt")
    overrides = [*corpus, "model.name=small", "method.calibration_windows=4"]
    run = elsa.prune(model=saved_model, method="sparsegpt", sparsity="2:4", overrides=overrides)
    assert (run.folder.resolve(), run.record) == (folder.resolve(), record)
    assert len(records()) == 2


def test_a_training_method_takes_its_steps(here, saved_model, my_text):
    settings = ["data.sequence_length=16", "method.interval=2", "training.batch_size=2", "method.start=null"]
    run = elsa.prune(saved_model, "elsa_plus", 0.7, data=my_text, steps=8, overrides=settings)
    assert run.record["facts"]["training_tokens"] == 8 * 2 * 16
    assert run.record["pattern"] == "70% global"  # the method's own allocation


def test_a_run_can_be_scored_in_another_way(here, saved_model, my_text):
    run = elsa.prune(saved_model, "magnitude", 0.5, data=my_text, overrides=SMALL[:1])
    text = ["data=text", f"data.test=[{my_text}]", "data.sequence_length=16"]
    again = elsa.evaluate(run, overrides=[*text, "eval.windows=3"])
    assert again.folder == run.folder
    assert again.record["perplexity"]["held_out"]["windows"] == 3


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ({"method": "wnda"}, "method=wnda: no such choice; did you mean 'wanda'?"),
        ({"sparsity": 1.5}, r"sparsity\.ratio=1\.5: the fraction of zeros lies in \[0, 1\)"),
        ({"model": "./no/such"}, r"model\.path=\./no/such: no such folder"),
        ({"data": ["nowhere.txt"]}, r"data\.train=nowhere\.txt: no such file"),
        ({"data": []}, r"data=\[\]: name a file"),
    ],
)
def test_what_cannot_run_is_said_as_on_the_command_line(here, arguments, line):
    with pytest.raises(elsa.UserError, match=line):
        elsa.prune(**{"method": "wanda"} | arguments)


@pytest.mark.parametrize("text", ["windows", "tokenizer"])
def test_a_model_in_memory_is_pruned_in_place(here, windows, tokenizer, text):
    model = random_model("llama")
    given = windows if text == "windows" else tokenizer
    facts = elsa.prune_model(model, given, elsa.methods.Wanda(calibration_windows=8), "2:4")
    assert set(facts["zeros"].values()) == {0.5}
    for weight in prunable_weights(model).values():
        assert int((weight.value_OI.reshape(-1, 4) != 0).sum(1).max()) == 2
    assert not list(here.glob("outputs"))


def test_a_training_method_works_in_memory_too(here, windows):
    model = random_model("llama")
    given = {"training": TRAINING, "precision": elsa.methods.Precision(loss_chunk=None)}
    facts = elsa.prune_model(model, windows, elsa.methods.Elsa(interval=2), 0.9, **given)
    assert facts["training_tokens"] == 6 * 4 * 16
    assert all(share == pytest.approx(0.9, abs=1e-3) for share in facts["zeros"].values())


def test_too_few_windows_are_named(windows):
    with pytest.raises(elsa.UserError, match="text=24 windows: Wanda needs 25"):
        elsa.prune_model(random_model("llama"), windows, elsa.methods.Wanda(calibration_windows=25), 0.5)


def test_import_costs_nothing_and_changes_nothing():
    code = "import sys, elsa; print([m for m in ('torch', 'transformers', 'hydra', 'matplotlib') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert set(elsa.__all__) <= set(dir(elsa))
    assert all(getattr(elsa, name) for name in elsa.__all__)


def test_the_guide_works_as_printed(here):
    guide = (Path(__file__).parents[1] / "docs/guides/python.md").read_text()
    block, *_ = re.findall(r"```python\n(.*?)```", guide, re.DOTALL)
    printed = subprocess.run([sys.executable, "-c", block], capture_output=True, text=True, check=False)
    assert printed.returncode == 0, printed.stderr
    perplexity, sparsity, folder = printed.stdout.splitlines()[-1].split()
    assert (float(perplexity), float(sparsity)) == (pytest.approx(19.68, rel=0.03), pytest.approx(0.5, abs=1e-3))
    assert (here / folder / "model").is_dir()


def test_a_run_that_others_would_share_is_not_begun_alone(saved_model):
    with pytest.raises(UserError, match=r"^devices=2: it runs in 1 here; start it with elsa, torchrun or srun"):
        elsa.prune(saved_model, "magnitude", overrides=["devices=2"])


def test_windows_hold_token_ids_alone(here, windows):
    windows[3, 5] = -100
    with pytest.raises(elsa.UserError, match="text=-100: token ids are from 0 up"):
        elsa.prune_model(random_model("llama"), windows, elsa.methods.Wanda(calibration_windows=8), "2:4")
