"""Weights chosen by name, from the command line to record, report and export."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import elsa as package
from elsa.errors import UserError
from elsa.model.weights import prunable_weights
from elsa.report.table import columns
from elsa.sparsity.pattern import Pattern
from tests.conftest import random_model
from tests.run.runs import of

MLP_ALONE = ["method=magnitude", "sparsity.ratio=0.8", "model.include=[*.mlp.*]", "model.exclude=[model.layers.0.*]"]


def zeros_in(folder):
    return {name: int((weight == 0).sum()) for name, weight in load_file(folder / "model.safetensors").items()}


def test_a_choice_is_in_record_counts_report_and_export(elsa):
    code, _, err = elsa(*MLP_ALONE)
    assert code == 0, err
    folder, record = of("magnitude")
    pruned = [f"model.layers.1.mlp.{name}_proj.weight" for name in ("down", "gate", "up")]
    zeros = zeros_in(folder / "model")
    assert [name for name in sorted(zeros) if zeros[name] > zeros[name.replace(".1.mlp.", ".0.mlp.")]] == pruned
    counted, coverage = record["sparsity"], record["coverage"]
    assert sorted(counted["tensors"]) == pruned
    assert coverage["prunable"] == counted["numel"]
    assert coverage["prunable"] + sum(coverage["left_out"].values()) == coverage["total"]
    of_blocks = sum(zeros[name] for name in (*coverage["left_out"], *pruned))
    total = coverage["total"]
    assert counted["of_blocks"] == {"counted": of_blocks / total, "zeros": of_blocks, "numel": total}
    assert record["settings"]["include"] == ["*.mlp.*"]
    assert f"{counted['counted']:.4%} ({of_blocks / total:.4%} of all)" in columns([record])[1][0]
    assert "left_out" not in of("dense")[1]["coverage"]

    assert elsa("method=magnitude", "sparsity.ratio=0.8")[0] == 0
    assert elsa("report", "records=[outputs/runs]", model=False)[0] == 0
    table = next(Path("outputs/reports").rglob("*.md")).read_text()
    assert "without pruning" in table
    assert "include=['*.mlp.*']" in table

    assert elsa("export", f"checkpoint={folder}", "export=dense", model=False)[0] == 0
    facts = json.loads((folder / "exports/dense-bfloat16/export.json").read_text())
    assert sorted(facts["matrices"]) == pruned
    assert facts["zeros"]["before"] == counted["zeros"]


@pytest.mark.parametrize("command", ["prune", "plan", "doctor"])
def test_a_glob_that_matches_nothing_is_refused_before_any_work(elsa, command):
    code, out, err = elsa(command, "model.exclude=[*.downproj]")
    line = "model.exclude=*.downproj: no prunable weight has such a name; did you mean '*.down_proj'?"
    assert code == 2
    assert line in " ".join(out.split() if command == "doctor" else [err])


def test_plan_and_doctor_count_what_is_chosen(elsa):
    code, out, _ = elsa("doctor", "model.include=[*.mlp.*]")
    assert code == 0
    assert "were left out on purpose (8 matrices)" in " ".join(out.split())
    every = elsa("plan", "method=elsa")[1]
    assert elsa("plan", "method=elsa", "model.include=[*.mlp.*]")[1].splitlines()[0] != every.splitlines()[0]


def test_python_takes_the_same_globs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, none = random_model("llama"), torch.zeros(0, 8)
    half = Pattern(pattern="unstructured", ratio=0.5)
    facts = package.prune_model(model, none, package.methods.Magnitude(), half, exclude=["*.mlp.*"])
    assert len(facts["zeros"]) == 8
    assert all((weight.value_OI == 0).float().mean() == 0.5 for weight in prunable_weights(model).values())
    assert len(package.prune_model(model, none, package.methods.Magnitude(), half)["zeros"]) == 14
    with pytest.raises(UserError, match=r"model\.include=\*\.mpl\.\*"):
        package.prune(method="magnitude", include=["*.mpl.*"])
