import json
import subprocess
import sys

import pytest

from elsa.track.jsonl import Jsonl
from elsa.track.memory import peak_bytes, reset_peak
from elsa.track.none import NoTracker
from elsa.track.wandb import Wandb


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def use(source, folder):
    tracker = source.open(folder, "run-1", {"seed": 0})
    tracker.log(2, {"loss": 1.5})
    tracker.log(4, {"loss": 1.25})
    tracker.close({"perplexity/held_out": 3.0})


def test_jsonl_is_readable_while_the_run_goes_on(tmp_path):
    tracker = Jsonl().open(tmp_path, "run-1", {})
    tracker.log(1, {"loss": 2.0})
    assert lines(tmp_path) == [{"step": 1, "loss": 2.0}]
    tracker.close({})


def test_none_writes_nothing(tmp_path):
    use(NoTracker(), tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_wandb_offline_holds_metrics_and_summary_without_a_key(tmp_path):
    use(Wandb(project="elsa", group=None, mode=None), tmp_path)
    assert [line["loss"] for line in lines(tmp_path)] == [1.5, 1.25]
    run = next((tmp_path / "wandb").glob("offline-run-*"))
    command = [sys.executable, "-m", "wandb", "leet", "inspect", run, "--summary", "--json"]
    summary = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "perplexity/held_out" in summary
    assert "1.25" in summary


def test_a_failing_wandb_is_reported_and_the_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr("wandb.init", lambda **arguments: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.warns(UserWarning, match=r"wandb stopped \(disk full\)"):
        use(Wandb(project="elsa", group=None, mode=None), tmp_path)
    assert len(lines(tmp_path)) == 2


def test_peak_memory_is_that_of_the_part_measured():
    reset_peak("cpu")
    before = peak_bytes("cpu")
    block = bytearray(200 * 2**20)
    block[:: 2**12] = b"x" * len(block[:: 2**12])
    assert peak_bytes("cpu") - before > 150 * 2**20
    del block
