import json
import os
import socket
import subprocess
import sys

import pytest
from PIL import Image

from elsa.errors import UserError
from elsa.track import Outcome, TrackedRun
from elsa.track.jsonl import Jsonl
from elsa.track.memory import peak_bytes, reset_peak
from elsa.track.none import NoTracker
from elsa.track.tensorboard import Tensorboard
from elsa.track.wandb import Wandb
from tests.track.leet import inspect, logged


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def tracked(folder, step=0):
    labels = {"model": "tiny", "method": "elsa", "pattern": "90%", "sparsity": 0.9, "seed": 0}
    return TrackedRun(folder=folder, name="run-1", labels=labels, config={"data": {"length": 8}}, step=step)


def outcome(folder):
    Image.new("RGB", (8, 8)).save(folder / "p.png")
    rows = [["set", "perplexity"], ["held_out", 3.0]]
    return Outcome(
        summary={"perplexity/held_out": 3.0}, tables={"scores": rows}, pictures={"sparsity": folder / "p.png"}
    )


def use(source, folder, steps=(2, 4), start=0):
    tracker = source.open(tracked(folder, start))
    for step in steps:
        tracker.log(step, {"loss": 10.0 - step})
    tracker.close(outcome(folder))


def test_jsonl_is_readable_while_the_run_goes_on(tmp_path):
    tracker = Jsonl().open(tracked(tmp_path))
    tracker.log(1, {"loss": 2.0})
    assert lines(tmp_path) == [{"step": 1, "loss": 2.0}]
    tracker.close(Outcome())


def test_a_run_that_only_lacks_its_outcome_keeps_its_curve(tmp_path):
    use(Tensorboard(), tmp_path)
    use(Tensorboard(), tmp_path, steps=(), start=None)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("source", [Jsonl(), Wandb(project="elsa", group=None, mode=None), Tensorboard()])
def test_a_run_that_goes_on_has_one_continuous_curve(tmp_path, source):
    use(source, tmp_path, steps=(2, 4, 6))
    use(source, tmp_path, steps=(6, 8), start=4)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 6, 8]


def test_a_run_goes_on_from_metrics_that_a_crash_has_damaged(tmp_path):
    use(Jsonl(), tmp_path, steps=(2, 4))
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'\0\0\xff\n{"loss": 1.0}\n7\n{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    use(Jsonl(), tmp_path, steps=(6,), start=5)
    assert [line["step"] for line in lines(tmp_path)] == [2, 4, 5, 6]


def test_none_writes_nothing(tmp_path):
    use(NoTracker(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_wandb_offline_holds_curves_labels_tables_and_pictures_without_a_key(tmp_path):
    use(Wandb(project="elsa", group="a_sweep", mode=None), tmp_path)
    assert [line["loss"] for line in lines(tmp_path)] == [8.0, 6.0]
    run = next((tmp_path / "wandb").glob("offline-run-*"))
    summary = inspect(run, "--summary")
    assert all(word in summary for word in ("perplexity/held_out", "scores", "sparsity", "image-file", "table-file"))
    everything = inspect(run)
    assert all(word in everything for word in ("a_sweep", "prune", "90%"))
    assert len(list(run.rglob("*.png"))) == 1
    assert len(list(run.rglob("*.table.json"))) == 1


KILLED = """
import os, signal, sys
from pathlib import Path
from elsa.track.wandb import Wandb
from tests.track.test_trackers import tracked
tracker = Wandb(project="elsa", group=None, mode=None).open(tracked(Path(sys.argv[1])))
for step in (2, 4, 6):
    tracker.log(step, {"loss": 10.0 - step})
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_wandb_has_the_whole_curve_of_a_run_that_was_killed(tmp_path):
    alone = {name: value for name, value in os.environ.items() if name != "WANDB_SERVICE"}
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], env=alone, check=False)
    use(Wandb(project="elsa", group=None, mode=None), tmp_path, steps=(6, 8), start=4)
    curve = [line["item"] for line in logged(tmp_path / "wandb" / "latest-run", "history")]
    assert [(item["step"], item["loss"]) for item in curve if "loss" in item] == [
        (2, 8.0),
        (4, 6.0),
        (6, 4.0),
        (8, 2.0),
    ]


def test_tensorboard_holds_scalars_text_and_pictures(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    use(Tensorboard(), tmp_path, steps=(2, 4, 6))
    use(Tensorboard(), tmp_path, steps=(6, 8), start=4)
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [event.step for event in events.Scalars("loss")] == [2, 4, 6, 8]
    assert events.Scalars("perplexity/held_out")[0].value == 3.0
    assert events.Tags()["images"] == ["sparsity"]
    assert "scores/text_summary" in events.Tags()["tensors"]


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


@pytest.fixture
def with_key(monkeypatch):
    """A key, and no word of where to log to."""
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    for name in ("WANDB_MODE", "HTTPS_PROXY", "https_proxy"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def silent_server():
    """The address of a server that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("answers", [False, True], ids=["no server", "a silent server"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_wandb_without_network_goes_on_offline_with_the_whole_curve(
    tmp_path, with_key, silent_server, monkeypatch, answers
):
    monkeypatch.setenv("WANDB_BASE_URL", silent_server if answers else "http://127.0.0.1:9")
    monkeypatch.setattr("elsa.track.wandb._PATIENCE", 1)
    use(Wandb(), tmp_path, steps=(2, 4, 6))
    run = next((tmp_path / "wandb").glob("offline-run-*"))
    curve = [line["item"] for line in logged(run, "history")]
    assert [item["step"] for item in curve if "loss" in item] == [2, 4, 6]


@pytest.mark.parametrize(
    ("variables", "mode"),
    [
        ({"WANDB_DISABLED": "true"}, "disabled"),
        ({"WANDB_DISABLED": "false", "WANDB_BASE_URL": "http://127.0.0.1:9"}, "offline"),
        ({"WANDB_MODE": "disabled"}, "disabled"),
        ({"WANDB_MODE": "offline"}, "offline"),
        ({"WANDB_MODE": "online", "WANDB_BASE_URL": "http://127.0.0.1:9"}, "offline"),
    ],
)
def test_wandbs_own_switches_are_obeyed(with_key, monkeypatch, variables, mode):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert Wandb().resolved_mode() == mode
    assert Wandb(mode="disabled").resolved_mode() == "disabled"


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_disabled_wandb_leaves_nothing_but_the_metrics(tmp_path, with_key, monkeypatch):
    monkeypatch.setenv("WANDB_DISABLED", "true")
    use(Wandb(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["metrics.jsonl", "p.png"]


def test_an_unknown_mode_is_refused():
    with pytest.raises(UserError, match=r"mode=onlin: known: online, offline, disabled"):
        Wandb(mode="onlin")


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("kept", ["reference", "upload"])
def test_wandb_keeps_the_model_and_its_record_as_artifacts_if_asked(tmp_path, kept):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights.bin").write_bytes(b"weights")
    (tmp_path / "result.json").write_text("{}")
    made_from = {"data": {"train": "abc"}, "model": {"name": "tiny"}}
    ended = Outcome(record=tmp_path / "result.json", model=tmp_path / "model", made_from=made_from)
    for source in (Wandb(), Wandb(artifact=kept)):
        source.open(tracked(tmp_path)).close(ended)
    without, with_artifacts = sorted((tmp_path / "wandb").glob("offline-run-*"), key=lambda path: path.stat().st_mtime)
    assert logged(without, "artifact") == []
    model, evaluation = logged(with_artifacts, "artifact")
    assert (model["type"], model["name"], evaluation["type"]) == ("model", "run-1", "evaluation")
    assert json.loads(model["metadata"]) == made_from
    (entry,) = model["manifest"]["contents"]
    assert entry["path"] == "weights.bin"
    assert entry.get("ref", "").startswith("file://") == (kept == "reference")


def test_an_artifact_is_kept_in_a_known_way():
    with pytest.raises(UserError, match="artifact=copy: known: reference, upload, or null"):
        Wandb(artifact="copy")
