"""Sparsity by name, from the command line to the record."""

from pathlib import Path

import pytest

from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.identity import pruned_key, run_name, settings
from elsa.config.prune import PruneConfig
from tests.run.runs import of

LEVELS = "sparsity.levels={*.mlp.*:0.9,*.self_attn.*:0.6}"


def run_of(*overrides):
    return build(PruneConfig, compose(*overrides))


def name(*overrides):
    return run_name(run_of(*overrides), pruned_key(run_of(*overrides)))


def test_levels_are_part_of_what_a_run_is_and_their_order_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("levels.txt").write_text("*.mlp.*: 0.9\n*.self_attn.*: 0.6\n")
    assert name(LEVELS) == name("sparsity.levels=levels.txt") != name()
    assert name(LEVELS) != name("sparsity.levels={*.self_attn.*:0.6,*.mlp.*:0.9}")
    assert settings(run_of(LEVELS))["levels"] == "*.mlp.* 0.9, *.self_attn.* 0.6"
    assert "levels" not in settings(run_of()) | settings(run_of("method=dense", LEVELS))
    assert name("method=dense", LEVELS) == name("method=dense")


@pytest.mark.parametrize("method", ["magnitude", "elsa"])
def test_a_run_meets_its_levels_and_its_budget(elsa, method):
    steps = ["training=short", "training.steps=4", "method.interval=2"] if method == "elsa" else []
    code, _, err = elsa(f"method={method}", "sparsity.ratio=0.8", LEVELS, *steps)
    assert code == 0, err
    _, record = of(method)
    counted = record["sparsity"]
    assert record["pattern"] == "80% levels"
    assert counted["zeros"] == round(0.8 * counted["numel"])
    assert record["config"]["sparsity"]["levels"] == {"*.mlp.*": 0.9, "*.self_attn.*": 0.6}
    shares = {"mlp": [], "self_attn": []}
    for key, count in counted["tensors"].items():
        shares[key.split(".")[3]].append(count["zeros"] / count["numel"])
    assert min(shares["mlp"]) > 0.8 > max(shares["self_attn"])
    assert elsa("report", "records=[outputs/runs]", model=False)[0] == 0
    assert "80% levels" in next(Path("outputs/reports").rglob("*.md")).read_text()


def test_doctor_says_what_becomes_of_levels_and_refuses_idle_ones(elsa):
    code, out, _ = elsa("doctor", "sparsity.ratio=0.7", LEVELS)
    assert code == 0
    assert "as written they make" in " ".join(out.split())
    code, _, err = elsa("prune", "sparsity.levels={*.mpl.*:0.9}")
    assert code == 2
    assert "sparsity.levels=*.mpl.*: no prunable weight has such a name; did you mean '*.mlp.*'?" in err
