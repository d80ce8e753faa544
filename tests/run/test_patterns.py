"""Patterns of groups from the command line to record, report and export."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from elsa.sparsity.pattern import Pattern
from tests.run.runs import of

CHOICES = {"paired_4of8": "paired_4:8", "transposable_2of4": "transposable_2:4"}


@pytest.mark.parametrize(("choice", "pattern"), CHOICES.items())
def test_a_run_of_a_pattern_is_named_counted_reported_and_exported(elsa, choice, pattern):
    code, _, err = elsa("method=magnitude", f"sparsity={choice}")
    assert code == 0, err
    folder, record = of("magnitude")
    assert record["pattern"] == pattern
    assert folder.name.startswith(f"small-magnitude-{choice}-")
    assert record["sparsity"]["counted"] == pytest.approx(0.5, abs=1e-2)
    weights = load_file(folder / "model/model.safetensors")
    assert all(Pattern(pattern=pattern, ratio=None).kept(weights[name]) == (4, 4) or "2:4" in pattern
               for name in record["sparsity"]["tensors"])  # fmt: skip
    assert elsa("method=magnitude", "sparsity=n_of_m", f"sparsity.pattern={pattern}")[0] == 0
    assert len(list(Path("outputs/runs").glob("small-magnitude-*"))) == 1
    assert elsa("report", "records=[outputs/runs]", model=False)[0] == 0
    assert f"| {pattern} |" in next(Path("outputs/reports").rglob("*.md")).read_text()
    assert elsa("export", f"checkpoint={folder}", "export=dense", model=False)[0] == 0
    assert json.loads((folder / "exports/dense-bfloat16/export.json").read_text())["zeros"]["before"]
