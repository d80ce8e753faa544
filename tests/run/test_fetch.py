"""A mirror filled from a pretended hub, then used with the network blocked."""

import json
import shutil
from pathlib import Path

import pytest

from elsa import hub
from elsa.evaluation import harness
from tests.data.hubs import SHA, pretended_hub
from tests.run.runs import records


@pytest.fixture
def task_hub(monkeypatch, tmp_path):
    """A hub that holds one task; its other functions note what they were asked for."""
    rows = [{"sentence1": f"the cat {i}", "sentence2": "sat", "label": i % 2, "idx": i} for i in range(6)]
    (tmp_path / "hub/rte").mkdir(parents=True)
    (tmp_path / "hub/rte/validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked, load = [], harness.load_tasks
    monkeypatch.setattr(hub, "reachable", lambda: True)
    monkeypatch.setattr(harness, "load_tasks", lambda names, mirror: load(names, mirror or tmp_path / "hub"))
    monkeypatch.setattr("elsa.model.loading.snapshot_download", lambda *a, **k: asked.append((a, k)))
    yield asked
    hub.use_mirror(None)


def test_what_is_fetched_is_used_offline(elsa, task_hub, monkeypatch):
    code, out, err = elsa("fetch", "eval=zero_shot", "eval.tasks=[rte]", "paths.mirror=mirror")
    assert code == 0, err
    manifest = json.loads(Path("mirror/manifest.json").read_text())
    assert manifest.keys() == {"rte/validation.jsonl"}
    monkeypatch.setattr(hub, "reachable", lambda: False)
    offline = ["eval=zero_shot", "eval.tasks=[rte]", "paths.mirror=mirror"]
    code, out, err = elsa("doctor", *offline)
    assert (code, err) == (0, "")
    assert "1 files of the size in its manifest" in out
    assert elsa("method=magnitude", *offline)[0] == 0
    assert "to the last bit" in elsa("doctor", "full=true", *offline)[1]
    whole = Path("mirror/rte/validation.jsonl").read_text()
    Path("mirror/rte/validation.jsonl").write_text(whole.replace("cat", "dog"))
    code, out, err = elsa("doctor", "full=true", *offline)
    assert code == 2
    assert "1 files are not what the manifest says, first rte/validation.jsonl" in out
    Path("mirror/rte/validation.jsonl").write_text("cut")
    code, out, err = elsa("doctor", *offline)
    assert code == 2
    assert "1 files are missing or cut" in out
    Path("mirror/manifest.json").write_text('{"rte/validation.jsonl": 3}')
    assert "its manifest says nothing of rte/validation.jsonl" in elsa("doctor", *offline)[1]


def test_a_hub_model_goes_into_the_mirror(elsa, task_hub):
    hub_model = ["model=opt_125m", "data=stdlib", "method=magnitude"]
    code, _, err = elsa("fetch", *hub_model, "paths.mirror=mirror", model=False)
    assert code == 0, err
    (((name,), options),) = task_hub
    assert name == "facebook/opt-125m"
    assert options["cache_dir"] == "mirror/hub"
    assert "*.safetensors" in options["allow_patterns"]


def test_fetching_needs_a_folder_and_a_network(elsa):
    assert elsa("fetch", model=False)[2].startswith("elsa: paths.mirror=null: give the folder to fill")
    assert elsa("fetch", "paths.mirror=m", model=False)[2].startswith("elsa: fetch: the hub cannot be reached")


DATA = ["data=hub", "data.name=owner/set", "data.sequence_length=16", "data.buffer_size=8", "eval.windows=4"]
WANDA = ["method=wanda", "method.calibration_windows=8", "paths.mirror=mirror"]


@pytest.fixture
def streaming_hub(monkeypatch, tmp_path):
    found = pretended_hub(monkeypatch, tmp_path)
    found.add("owner/set", "default", train=[{"text": f"some words, {number} of them"} for number in range(2000)])
    yield found
    hub.use_mirror(None)


@pytest.fixture
def streamed(elsa, saved_model):
    """Run `elsa <command>` on a data set of the hub."""
    base = ["model=pretrained", "model.name=small", f"model.path={saved_model}", *DATA, *WANDA]
    return lambda command, *arguments: elsa(command, *base, *arguments, model=False)


def test_as_many_documents_are_fetched_as_the_windows_take_and_then_used_offline(streamed, streaming_hub):
    for _ in range(2):  # windows that are in the cache keep no document out of a mirror
        shutil.rmtree("mirror", ignore_errors=True)
        code, _, err = streamed("fetch", "data.documents_used=30", "paths.cache=here")
        assert code == 0, err
        files = json.loads(Path("mirror/manifest.json").read_text())
        assert {name.split("/")[1] for name in files} == {"owner--set"}
        assert streamed("prune", "data.documents_used=30", "paths.cache=here", "paths.outputs=first")[0] == 0
    kept = sum(len(path.read_text().splitlines()) for path in Path("mirror/streams").rglob("*.jsonl"))
    assert kept == 768  # files of 256 for a batch of 512 and the fifth that is held back
    streaming_hub.online = False
    offline = ["data.documents_used=30", "paths.cache=there"]
    code, out, err = streamed("doctor", *offline)
    assert (code, err) == (0, ""), out
    assert "hubstream, train split" in out
    code, _, err = streamed("prune", *offline)
    assert code == 0, err
    (record,) = (record for record in records().values() if record["method"] == "wanda")
    assert record["data"] == {"revision": SHA}
    code, _, err = streamed("prune", *offline, "method.calibration_windows=2000")
    assert code == 2
    assert "on is not in mirror/streams, and the hub cannot be reached" in err


def test_a_column_that_is_not_there_is_named_by_every_command(streamed, streaming_hub):
    line = "data.column=txt: owner/set has no such column; did you mean 'text'?"
    assert streamed("fetch", "data.column=txt")[::2] == (2, f"elsa: {line}\n")
    assert streamed("prune", "data.column=txt")[::2] == (2, f"elsa: {line}\n")
    assert line in streamed("doctor", "data.column=txt")[1]
