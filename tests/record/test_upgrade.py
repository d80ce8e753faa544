"""Committed results of earlier formats are read as if they had been written today."""

import json
from pathlib import Path

import pytest

from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.identity import settings
from elsa.config.prune import PruneConfig
from elsa.record.record import read_records, views
from elsa.report.grid import grids

DOCS = Path(__file__).parents[2] / "docs"
BUNDLES = sorted(DOCS.glob("results/*/records.jsonl"))


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda bundle: bundle.parent.name)
def test_every_committed_record_is_read(bundle):
    records = read_records(bundle)
    assert len(records) == len(bundle.read_text().splitlines())
    for record, line in zip(records, bundle.read_text().splitlines(), strict=True):
        written = json.loads(line)
        evaluations = written.get("evaluations", [written])  # format 2 had one, in the record itself
        scores = [each for evaluation in evaluations for each in evaluation.get("perplexity", {}).items()]
        shown = [each for view in views(record) for each in view["perplexity"].items()]
        assert sorted(map(json.dumps, shown)) == sorted(map(json.dumps, scores))
    assert "_target_" not in json.dumps([record["settings"] for record in records])


def of_today(*overrides):
    then = ["data.sequence_length=256", "training=short", "training.autocast=bfloat16"]
    return settings(build(PruneConfig, compose(*then, *overrides)))


@pytest.mark.parametrize(
    ("bundle", "name", "overrides"),
    [
        ("layerwise_tiny", "tiny-wanda-", ["method=wanda"]),
        ("elsa_plus_tiny", "tiny-alps+finetuned-", ["method=finetuned/alps", "training.distillation=1"]),
        (
            "elsa_plus_tiny",
            "tiny-elsa_plus-",
            ["method=elsa_plus", "method.warmup_fraction=0", "method.hidden_distillation=0", "training.distillation=1"],
        ),
    ],
)
def test_the_settings_of_an_old_record_are_those_of_the_same_run_today(bundle, name, overrides):
    records = read_records(DOCS / "results" / bundle / "records.jsonl")
    old = next(record["settings"] for record in records if record["name"].startswith(name))
    today = of_today(*overrides, f"training.learning_rate={old.get('training', {}).get('learning_rate', 1e-3)}")
    assert old == today


def test_old_and_new_runs_of_one_method_share_a_cell():
    records = read_records(DOCS / "results/layerwise_tiny/records.jsonl")
    old = next(record for record in records if record["name"].startswith("tiny-wanda-0.5") and record["seed"] == 0)
    new = old | {"name": "new", "seed": 7, "settings": of_today("method=wanda")}
    (grid,) = grids([view for record in (old, new) for view in views(record)])
    assert len(grid.cells["wanda", "50%"].values) == 2
