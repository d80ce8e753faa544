"""A mirror filled from a pretended hub, then used with the network blocked."""

import json
from pathlib import Path

import pytest

from elsa import hub
from elsa.evaluation import harness


@pytest.fixture
def pretended_hub(monkeypatch, tmp_path):
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


def test_what_is_fetched_is_used_offline(elsa, pretended_hub, monkeypatch):
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


def test_a_hub_model_goes_into_the_mirror(elsa, pretended_hub):
    hub_model = ["model=opt_125m", "data=stdlib", "method=magnitude"]
    code, _, err = elsa("fetch", *hub_model, "paths.mirror=mirror", model=False)
    assert code == 0, err
    (((name,), options),) = pretended_hub
    assert name == "facebook/opt-125m"
    assert options["cache_dir"] == "mirror/hub"
    assert "*.safetensors" in options["allow_patterns"]


def test_fetching_needs_a_folder_and_a_network(elsa):
    assert elsa("fetch", model=False)[2].startswith("elsa: paths.mirror=null: give the folder to fill")
    assert elsa("fetch", "paths.mirror=m", model=False)[2].startswith("elsa: fetch: the hub cannot be reached")
