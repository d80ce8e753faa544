"""The command line after a process has died: the same command goes on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.run.runs import of, records

RUN = ["method=elsa", "sparsity.ratio=0.9", "training.batch_size=2", "training.learning_rate=1e-3", "method.interval=2"]
RUN += ["checkpoint.every_minutes=0", "training.steps=300", "training.autocast=none"]


def start_elsewhere(arguments):
    """The command in a process of its own, returned once it has kept a state."""
    process = subprocess.Popen(
        [sys.executable, "-m", "elsa.run.cli", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    while not list(Path().glob("outputs/runs/*-elsa-*/checkpoints/step-*.pt")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    return process


@pytest.mark.parametrize("number", [pytest.param(signal.SIGKILL, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_killed_process_is_continued_to_the_same_weights(elsa, saved_model, corpus, number):
    base = ["model=pretrained", "model.name=small", f"model.path={saved_model}", *corpus]
    process = start_elsewhere([*RUN, *base])
    os.kill(process.pid, number)
    _, error = process.communicate()
    assert process.returncode == (-number if number == signal.SIGKILL else 128 + number)
    if number == signal.SIGTERM:
        assert "stopped by SIGTERM after step" in error
    assert {record["method"] for record in records().values()} == {"dense"}
    code, out, err = elsa(*RUN)
    assert code == 0, err
    assert "going on after step" in out
    folder, _ = of("elsa")
    assert not (folder / "checkpoints").exists()
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [f'{{"step": {step}' for step in range(2, 301, 2)]
    weights = (folder / "model/model.safetensors").read_bytes()
    elsa(*RUN, "paths.outputs=again")
    undisturbed = next(Path().glob("again/runs/*-elsa-*/model/model.safetensors"))
    assert undisturbed.read_bytes() == weights


def test_what_was_saved_is_not_trained_again(elsa, monkeypatch):
    few = [*RUN, "training.steps=4"]

    def broken(self, model, held_out):
        raise KeyboardInterrupt

    elsa("method=dense")
    with monkeypatch.context() as patch:
        patch.setattr("elsa.evaluation.perplexity.Perplexity.evaluate", broken)
        with pytest.raises(KeyboardInterrupt):
            elsa(*few)
    monkeypatch.setattr("elsa.method.elsa.Elsa.apply", lambda *_: pytest.fail("trained again"))
    code, _, err = elsa(*few)
    assert code == 0, err
    assert of("elsa")[1]["facts"]["training_tokens"] == 4 * 2 * 16
