"""A record is run again as it was."""

import json
from pathlib import Path

import pytest
import torch

from elsa.config.build import build
from elsa.config.prune import PruneConfig
from elsa.record.record import read_records
from elsa.run.reproduce import config_of
from tests.run.runs import of

TRAINING = ["training.steps=6", "training.batch_size=2", "training.learning_rate=1e-3", "method.interval=2"]
TRAINING += ["training.autocast=none"]


@pytest.fixture
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_the_same_bits_are_called_so(elsa, threads):
    elsa("method=elsa", "sparsity.ratio=0.9", "seed=3", *TRAINING)
    folder, record = of("elsa")
    code, out, err = elsa("reproduce", f"record={folder}", model=False)
    assert code == 0, err
    assert f"perplexity held_out: {record['perplexity']['held_out']['perplexity']}, the same" in out
    assert f"weights model.safetensors: {record['weights_sha256']['model.safetensors']}, the same" in out
    assert out.endswith("the same bits\n")
    assert list(Path().glob("outputs/reproductions/runs/*-elsa-*"))


def test_a_line_of_a_report_can_be_reproduced_by_number_or_name(elsa, threads):
    elsa("method=magnitude")
    elsa("report", model=False)
    (bundle,) = Path().glob("outputs/reports/*/records.jsonl")
    name = of("magnitude")[1]["name"]
    for line in ("2", name):
        code, out, err = elsa("reproduce", f"record={bundle}:{line}", model=False)
        assert (code, out.endswith("the same bits\n")) == (0, True), err
    code, _, err = elsa("reproduce", f"record={bundle}:{name[:-1]}", model=False)
    assert code == 2
    assert f"did you mean '{name}'?" in err


def test_what_differs_is_named(elsa, threads, tmp_path):
    elsa("method=magnitude")
    folder, _ = of("magnitude")
    record = json.loads((folder / "result.json").read_text())
    record["evaluations"][0]["perplexity"]["held_out"]["perplexity"] += 1
    record["environment"]["threads"] += 1
    record["environment"]["libraries"]["torch"] = "1.0"
    (tmp_path / "other.json").write_text(json.dumps(record))
    threads = torch.get_num_threads()
    code, out, err = elsa("reproduce", f"record={tmp_path / 'other.json'}", f"threads={threads}", model=False)
    assert code == 2
    assert "the record has" in out
    assert "zeros: " in out
    assert f"libraries.torch was 1.0 and is {torch.__version__}" in err
    assert f"threads was {threads + 1} and is {threads}" in err


@pytest.mark.parametrize("record", ["nowhere.json", "README.md"])
def test_what_is_no_record_is_refused(elsa, record):
    Path("README.md").write_text("# none")
    code, _, err = elsa("reproduce", f"record={record}", model=False)
    assert code == 2
    assert err.startswith(f"elsa: record={record}: no")
    assert err.count("\n") == 1


def test_a_record_names_what_decides_its_bits(elsa):
    elsa("method=magnitude")
    environment = of("magnitude")[1]["environment"]
    assert environment["threads"] == torch.get_num_threads()
    assert environment["cpu"]
    assert environment["cpu_instructions"] == torch.backends.cpu.get_cpu_capability()
    assert (environment["device"], environment["gpu"]) == ("cpu", None)


RESULTS = Path(__file__).parents[2] / "docs/results"


@pytest.mark.parametrize("records", sorted(RESULTS.glob("*/records.jsonl")), ids=lambda path: path.parent.name)
def test_every_committed_record_is_that_of_a_run_of_today(records, tmp_path):
    paths = {"outputs": str(tmp_path), "cache": str(tmp_path), "mirror": None}
    for record in read_records(records):
        run = build(PruneConfig, config_of(record, paths))
        assert run.method.label == record["method"]
        assert run.seed == record["seed"]
