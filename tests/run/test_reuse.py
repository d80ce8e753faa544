"""A result is reused if nothing that could change it has changed, and for nothing else."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from elsa.record.record import read_record
from tests.run.runs import of, records

ROOT = Path(__file__).parents[2]
WANDA = ["method=wanda", "method.calibration_windows=4"]


def wandas():
    return [folder for folder, record in records().items() if record["method"] == "wanda"]


def pruned_again(elsa, *changed):
    """Whether the same command prunes anew after a change."""
    code, _, err = elsa(*WANDA, *changed)
    assert code == 0, err
    return len(wandas()) == 2


@pytest.fixture
def wanda(elsa):
    assert elsa(*WANDA)[0] == 0
    assert not pruned_again(elsa)
    return of("wanda")


def test_other_training_text_in_the_same_file_is_another_run(elsa, wanda, tmp_path):
    text = tmp_path / "train.txt"
    text.write_text(text.read_text()[::-1])
    assert pruned_again(elsa)


def test_other_validation_text_is_not(elsa, wanda, tmp_path):
    text = tmp_path / "validation.txt"
    text.write_text(text.read_text()[::-1])
    assert not pruned_again(elsa)


def test_other_test_text_is_scored_anew_and_not_pruned_anew(elsa, wanda, tmp_path):
    folder, record = wanda
    text = tmp_path / "test.txt"
    text.write_text(text.read_text()[::-1])
    assert not pruned_again(elsa)
    first, second = (each["perplexity"]["held_out"] for each in read_record(folder)["evaluations"])
    assert first == record["perplexity"]["held_out"]
    assert first["data_sha256"] != second["data_sha256"]
    assert first["perplexity"] != second["perplexity"]


def test_a_rope_factor_in_a_local_models_config_is_another_run(elsa, wanda, saved_model):
    config = json.loads((saved_model / "config.json").read_text())
    config["rope_parameters"] = {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}
    (saved_model / "config.json").write_text(json.dumps(config))
    assert pruned_again(elsa)
    one, other = (records()[folder]["perplexity"]["held_out"]["perplexity"] for folder in wandas())
    assert one != other


def test_another_tokenizer_is_another_run(elsa, wanda, saved_model):
    tokenizer = json.loads((saved_model / "tokenizer_config.json").read_text())
    (saved_model / "tokenizer_config.json").write_text(json.dumps(tokenizer | {"eos_token": "<b>"}))
    assert pruned_again(elsa)


def test_a_copy_of_the_model_elsewhere_is_the_same_run(elsa, wanda, saved_model):
    copied = shutil.copytree(saved_model, saved_model.with_name("copied"))
    assert not pruned_again(elsa, f"model.path={copied}")


def test_another_evaluation_only_evaluates(elsa, wanda, monkeypatch):
    folder, record = wanda
    monkeypatch.setattr("elsa.method.wanda.Wanda.prune", lambda *_: pytest.fail("pruned again"))
    before = (folder / "model/model.safetensors").stat().st_mtime_ns
    code, out, err = elsa(*WANDA, "eval.windows=3")
    assert code == 0, err
    assert "pruned before and scored anew" in out
    assert (folder / "model/model.safetensors").stat().st_mtime_ns == before
    assert [e["perplexity"]["held_out"]["windows"] for e in read_record(folder)["evaluations"]] == [
        record["perplexity"]["held_out"]["windows"], 3
    ]  # fmt: skip
    code, out, _ = elsa(*WANDA, "eval.windows=3")
    assert "scored anew" not in out
    elsa("report", model=False)
    tables = next(Path().glob("outputs/reports/*/tables.md")).read_text()
    assert tables.count("perplexity on held_out (3 test windows") == 1
    assert tables.count("perplexity on held_out (") == 2


def test_a_report_finds_what_evaluate_wrote(elsa, wanda, corpus):
    folder, _ = wanda
    code, _, err = elsa("evaluate", f"checkpoint={folder}", *corpus, "eval.windows=5", model=False)
    assert code == 0, err
    elsa("report", model=False)
    assert "(5 test windows" in next(Path().glob("outputs/reports/*/tables.md")).read_text()


def test_evaluate_and_prune_share_their_scores(elsa, wanda, corpus, monkeypatch):
    folder, record = wanda
    monkeypatch.setattr("elsa.evaluation.perplexity.Perplexity.evaluate", lambda *_: pytest.fail("scored again"))
    code, out, err = elsa("evaluate", f"checkpoint={folder}", *corpus, model=False)
    assert code == 0, err
    assert f"perplexity {record['perplexity']['held_out']['perplexity']:.4f}" in out


INVERTED = ("score = weight_OI.abs() * prepared.sqrt()", "score = 1 / (weight_OI.abs() * prepared.sqrt())")


@pytest.fixture
def copied_elsa(tmp_path, saved_model, corpus):
    """Run a copy of the package, in a process of its own; its files can be changed."""
    shutil.copytree(ROOT / "elsa", tmp_path / "copy/elsa", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "conf", tmp_path / "copy/conf")
    base = ["model=pretrained", "model.name=small", f"model.path={saved_model}", *corpus]
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "copy"), "ELSA_CACHE": str(tmp_path / "cache")}

    def run(*arguments):
        command = [sys.executable, "-m", "elsa.run.cli", *base, *arguments]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_code_that_changes_the_result_runs_anew_and_old_results_are_reused_only_when_asked(
    copied_elsa, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    copied_elsa(*WANDA)
    ((folder, before),) = [each for each in records().items() if each[1]["method"] == "wanda"]
    source = tmp_path / "copy/elsa/method/wanda.py"
    assert INVERTED[0] in source.read_text()
    source.write_text(source.read_text().replace(*INVERTED).replace("Keep the largest", "Keep the smallest"))
    out = copied_elsa(*WANDA, "reuse=any_code")
    assert f"{folder.name}: reused, though it was made by other code or libraries (reuse=any_code)" in out
    assert wandas() == [folder]
    copied_elsa(*WANDA)
    (after,) = [record for each, record in records().items() if record["method"] == "wanda" and each != folder]
    assert after["key"]["question"] == before["key"]["question"]
    assert after["perplexity"]["held_out"]["perplexity"] > before["perplexity"]["held_out"]["perplexity"]


@pytest.mark.slow
def test_a_comment_is_no_change_of_code(copied_elsa, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    copied_elsa(*WANDA)
    source = tmp_path / "copy/elsa/method/wanda.py"
    source.write_text(source.read_text().replace("Keep the largest", "Keep the very largest") + "\n# a thought\n")
    out = copied_elsa(*WANDA)
    assert "finished before, not run again" in out


@pytest.mark.parametrize("knob", ["probe_every=3", "training.steps=9", "checkpoint.keep=3", "seed=4"])
def test_what_cannot_change_a_result_does_not_make_another(elsa, knob):
    elsa("method=magnitude")
    elsa("method=magnitude", knob)
    assert len([record for record in records().values() if record["method"] == "magnitude"]) == 1
