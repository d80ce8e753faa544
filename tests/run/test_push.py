"""What would be sent to the hub, and what is refused before anything is."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from huggingface_hub import ModelCard

from elsa.run import push
from tests.run.runs import of

TO = ["repo=acme/small-90", "license=apache-2.0", "base_model=acme/small"]
DRY = [*TO, "dry_run=true"]
STAGED = Path("outputs/pushes/acme--small-90")
OF_A_MODEL = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"}


@pytest.fixture
def run_folder(finished):
    finished("method=magnitude", "sparsity.ratio=0.9", "eval.windows=4")
    return of("magnitude")[0]


@pytest.fixture
def exported(elsa, run_folder):
    code, _, err = elsa("export", f"checkpoint={run_folder}", model=False)
    assert code == 0, err
    return run_folder / "exports/sparse-bfloat16"


@pytest.fixture
def no_hub(monkeypatch):
    """Whatever asks the hub fails the test."""
    monkeypatch.setattr(push, "HfApi", lambda **given: pytest.fail("the hub was asked"))


class FakeHub:
    """Keeps what it is sent. `public`: the repository is there, and all can see it."""

    def __init__(self):
        self.calls, self.sent, self.linked, self.public, self.error = [], {}, [], False, None

    def create_repo(self, repo, **given):
        self.calls.append(("create_repo", repo, given))

    def model_info(self, repo):
        return SimpleNamespace(private=not self.public)

    def create_branch(self, repo, **given):
        self.calls.append(("create_branch", repo, given))

    def upload_folder(self, *, folder_path, **given):
        if self.error is not None:
            raise self.error
        self.calls.append(("upload_folder", given))
        self.sent = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
        self.linked = [path.name for path in Path(folder_path).iterdir() if path.stat().st_nlink > 1]
        return SimpleNamespace(commit_url="https://huggingface.co/acme/small-90/commit/1")


@pytest.fixture
def hub(monkeypatch):
    fake = FakeHub()
    monkeypatch.setattr(push, "HfApi", lambda **given: fake)
    monkeypatch.setattr(push.hub, "reachable", lambda: True)
    monkeypatch.setattr(push, "get_token", lambda: "hf_secret")
    return fake


@pytest.mark.usefixtures("no_hub")
def test_a_dry_run_leaves_the_folder_that_would_be_pushed(elsa, exported, tmp_path):
    (exported / "optimizer.pt").write_text("much")
    code, out, err = elsa("push", f"checkpoint={exported}", *DRY, model=False)
    assert code == 0, err
    assert {path.name for path in STAGED.iterdir()} == OF_A_MODEL | {
        "README.md", "record.json", "export.json", "elsa.safetensors",
    }  # fmt: skip
    assert (STAGED / "elsa.safetensors").read_bytes() == (exported / "elsa.safetensors").read_bytes()
    assert f"{STAGED}: 8 files, " in out
    assert "left behind: optimizer.pt\n" in out
    assert "base model acme/small, as given; licence apache-2.0" in out
    assert "nothing was sent" in out
    card = ModelCard.load(STAGED / "README.md")
    _, record = of("magnitude")
    assert card.data.base_model == "acme/small"
    assert card.data.eval_results[0].metric_value == round(record["perplexity"]["held_out"]["perplexity"], 4)
    for path in STAGED.iterdir():
        assert str(tmp_path).encode() not in path.read_bytes(), path


@pytest.mark.usefixtures("no_hub")
def test_of_a_run_its_model_is_pushed(elsa, run_folder):
    for checkpoint in (run_folder, run_folder / "model"):
        code, out, err = elsa("push", f"checkpoint={checkpoint}", *DRY, "to=there", model=False)
        assert code == 0, err
        kept = {path.name for path in Path("there").iterdir()}
        assert kept == OF_A_MODEL | {"README.md", "record.json", "model.safetensors"}
        assert "left behind" not in out
        assert "With `transformers` alone:" in Path("there/README.md").read_text()
    assert not STAGED.exists()


def loaded(code, cache):
    """Run the Python of a card where the hub's cache has the repository."""
    script = f"{code}\nprint(model(**tokenizer('the cat', return_tensors='pt')).logits.shape)"
    environment = os.environ | {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    return subprocess.run([sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("form", ["sparse", "dense"])
def test_the_code_on_the_card_loads_what_is_pushed(elsa, run_folder, tmp_path, form):
    elsa("export", f"checkpoint={run_folder}", f"export={form}", model=False)
    assert elsa("push", f"checkpoint={run_folder}/exports/{form}-bfloat16", *DRY, model=False)[0] == 0
    cache = tmp_path / "hub/models--acme--small-90"
    (cache / "refs").mkdir(parents=True)
    (cache / "refs/main").write_text("a" * 40)
    shutil.copytree(STAGED, cache / "snapshots" / ("a" * 40))
    code = re.search(r"```python\n(.*?)```", (STAGED / "README.md").read_text(), re.DOTALL)[1]
    done = loaded(code, tmp_path / "hub")
    assert "torch.Size([1, " in done.stdout, done.stderr
    if form == "sparse":
        assert loaded("\n".join(code.splitlines()[1:]), tmp_path / "hub").returncode != 0


@pytest.mark.usefixtures("no_hub")
def test_the_record_on_the_hub_can_be_run_again_and_is_the_same(elsa, exported):
    elsa("push", f"checkpoint={exported}", *DRY, model=False)
    text = (STAGED / "README.md").read_text()
    assert "lie in the current folder: `a_model`, `train.txt`, `validation.txt`, `test.txt`." in text
    command = next(line for line in text.splitlines() if line.startswith("elsa reproduce"))
    shutil.copyfile(STAGED / "record.json", "record.json")
    code, out, err = elsa(*command.split()[1:], model=False)
    assert code == 0, err
    assert "the same bits" in out
    folder = next(Path("outputs/reproductions/runs").glob("*magnitude*"))
    again = next(line for line in text.splitlines() if line.startswith("elsa export"))
    words = again.replace("outputs/reproductions/runs/<run>", str(folder)).split()[1:]
    assert elsa(*words, model=False)[0] == 0
    files = [
        json.loads((each / "export.json").read_text())["files"]
        for each in (exported, folder / "exports" / exported.name)
    ]
    assert files[0] == files[1]


@pytest.mark.usefixtures("no_hub")
def test_what_was_scored_of_the_export_itself_is_on_the_card(elsa, run_folder, corpus, tmp_path):
    elsa("export", f"checkpoint={run_folder}", "dtype=int8", "evaluate=false", model=False)
    exported = run_folder / "exports/sparse-int8"
    elsa("push", f"checkpoint={exported}", *DRY, model=False)
    card = ModelCard.load(STAGED / "README.md")
    assert card.data.eval_results is None
    assert "before its values were cast to int8" in card.text
    assert elsa("evaluate", "checkpoint=a_model", *corpus, "eval.windows=4", model=False)[0] == 0
    code, out, err = elsa("evaluate", f"checkpoint={exported}", *corpus, "eval.windows=4", model=False)
    assert code == 0, err
    broken = Path("outputs/evaluations/broken/result.json")
    broken.parent.mkdir()
    broken.write_text("{")
    elsa("push", f"checkpoint={exported}", *DRY, model=False)
    card = ModelCard.load(STAGED / "README.md")
    evaluations = json.loads((STAGED / "export.json").read_text())["evaluations"]
    assert len(evaluations) == 1
    assert str(tmp_path) not in (STAGED / "export.json").read_text()
    found = evaluations[0]["perplexity"]["held_out"]["perplexity"]
    assert f"perplexity {found:.4f}" in out
    assert [each.metric_value for each in card.data.eval_results] == [round(found, 4)]


def test_it_is_sent_in_one_commit(elsa, exported, hub):
    code, out, err = elsa("push", f"checkpoint={exported}", *TO, model=False)
    assert code == 0, err
    (created, repo, how), (uploaded, what) = hub.calls
    assert (created, repo, how) == ("create_repo", "acme/small-90", {"private": True, "exist_ok": True})
    assert uploaded == "upload_folder"
    assert (what["repo_id"], what["revision"]) == ("acme/small-90", None)
    assert what["commit_message"] == f"elsa push: {of('magnitude')[1]['name']}"
    assert what["allow_patterns"] == sorted(hub.sent)
    assert "model.safetensors" in what["delete_patterns"]
    assert "elsa-*-of-*.safetensors" in what["delete_patterns"]
    assert set(hub.sent) == OF_A_MODEL | {"README.md", "record.json", "export.json", "elsa.safetensors"}
    assert hub.linked == ["elsa.safetensors"]  # no second copy on the disk
    assert hub.sent["elsa.safetensors"] == (exported / "elsa.safetensors").read_bytes()
    assert "https://huggingface.co/acme/small-90/commit/1 (private): 8 files" in out
    assert list(Path("outputs/pushes").iterdir()) == []
    assert "hf_secret" not in out + err


def test_to_a_branch_with_a_message_for_all_to_see(elsa, exported, hub):
    hub.public = True
    more = ["private=false", "revision=v2", "message='Second try'"]
    code, out, err = elsa("push", f"checkpoint={exported}", *TO, *more, model=False)
    assert code == 0, err
    assert hub.calls[0][2]["private"] is False
    assert hub.calls[1] == ("create_branch", "acme/small-90", {"branch": "v2", "exist_ok": True})
    assert (hub.calls[2][1]["revision"], hub.calls[2][1]["commit_message"]) == ("v2", "Second try")
    assert "(public): 8 files" in out


def test_nothing_private_goes_to_a_public_repository(elsa, exported, hub):
    hub.public = True
    code, _, err = elsa("push", f"checkpoint={exported}", *TO, model=False)
    assert (code, hub.sent) == (2, {})
    assert err == "elsa: private=true: the repository is there and public; private=false says that this is meant\n"


@pytest.mark.parametrize("error", [OSError("403 Forbidden: no\nrights"), RuntimeError("xet"), KeyError("x")])
def test_what_the_hub_refuses_is_one_line(elsa, exported, hub, error):
    hub.error = error
    code, _, err = elsa("push", f"checkpoint={exported}", *TO, model=False)
    assert code == 2
    assert (
        err == f"elsa: repo=acme/small-90: it was not pushed: {type(error).__name__}: {' '.join(str(error).split())}\n"
    )
    assert list(Path("outputs/pushes").iterdir()) == []


def test_without_network_or_token_nothing_is_begun(elsa, exported, hub, monkeypatch):
    instead = "dry_run=true writes the folder without it"
    monkeypatch.setattr(push, "get_token", lambda: None)
    code, _, err = elsa("push", f"checkpoint={exported}", *TO, model=False)
    assert (code, err) == (
        2,
        f"elsa: push: there is no token of the hub; set HF_TOKEN, or run: hf auth login; {instead}\n",
    )
    monkeypatch.setattr(push.hub, "reachable", lambda: False)
    code, _, err = elsa("push", f"checkpoint={exported}", *TO, model=False)
    assert (code, err) == (2, f"elsa: push: the hub cannot be reached from here; {instead}\n")
    assert (hub.calls, Path("outputs/pushes").exists()) == ([], False)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (["license=null"], "license=null: the licence of the base model is wanted, e.g. apache-2.0"),
        (["license='Apache 2.0'"], "license=Apache 2.0: an identifier of the hub is wanted: lower-case letters"),
        (["license=Apache-2.0"], "license=Apache-2.0: an identifier of the hub is wanted: lower-case letters"),
        (["repo=small-90"], "repo=small-90: organisation/name is wanted"),
        (["repo=a/b/c"], "repo=a/b/c: Repo id must be in the form"),
        (["repo=acme/.."], "repo=acme/..: "),
        (["base_model=a--b/c"], "base_model=a--b/c: Cannot have -- or .. in repo_id"),
        (["base_model=null"], "base_model=null: its record names no hub id ("),
        (["dry_run=false", "to=x"], "to=x: it goes with dry_run=true"),
        (["to=full"], "to=full: it holds something else; give a new folder"),
        (["to=."], "to=.: it holds something else; give a new folder"),
        (["to={}"], "it holds something else; give a new folder"),
        (["checkpoint=nowhere"], "checkpoint=nowhere: no such folder; give a run folder or its model folder"),
        (["checkpoint=a_model"], "checkpoint=a_model: it has no record of a run to make the card from; give"),
        (["checkpoint=???"], "checkpoint"),
        (["repo=???"], "repo"),
    ],
)  # fmt: skip
def test_what_cannot_be_pushed_is_one_line_and_leaves_nothing(elsa, run_folder, changes, line):
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    changes = [each.format(run_folder / "model") for each in changes]
    code, out, err = elsa("push", f"checkpoint={run_folder}", *DRY, *changes, model=False)
    assert (code, err.count("\n")) == (2, 1), err
    assert line in err
    assert out == ""
    assert Path("full/mine.txt").exists()
    assert (run_folder / "model/model.safetensors").exists()
    assert not Path("outputs/pushes").exists()


@pytest.mark.usefixtures("no_hub")
def test_weights_that_are_not_those_of_the_record_are_refused(elsa, exported, run_folder):
    for folder, name, of_what in (
        (exported, "elsa.safetensors", "export.json"),
        (run_folder / "model", "model.safetensors", "record"),
    ):
        (folder / name).write_bytes((folder / name).read_bytes() + b" ")
        code, _, err = elsa("push", f"checkpoint={folder}", *DRY, model=False)
        assert code == 2
        assert err == f"elsa: checkpoint={folder}: {name} is not the file that its {of_what} is of\n"
    record = json.loads((run_folder / "result.json").read_text())
    (run_folder / "result.json").write_text(json.dumps(record | {"weights_sha256": {}}))
    code, out, err = elsa("push", f"checkpoint={run_folder}", *DRY, model=False)
    assert code == 0, err
    assert "before weights were hashed" in out
    (run_folder / "result.json").write_text(json.dumps(record | {"method": "checkpoint"}))
    code, _, err = elsa("push", f"checkpoint={run_folder}", *DRY, model=False)
    assert (code, "its record is of no run" in err) == (2, True)


@pytest.mark.usefixtures("no_hub")
def test_the_base_model_is_that_of_the_record_if_it_is_of_the_hub(elsa, run_folder):
    record = json.loads((run_folder / "result.json").read_text())
    record["config"]["model"]["path"] = "acme/base"
    (run_folder / "result.json").write_text(json.dumps(record))
    words = ["push", f"checkpoint={run_folder}", *DRY, "base_model=null"]
    code, out, err = elsa(*words, model=False)
    assert code == 0, err
    assert "base model acme/base, as its record names it" in out
    assert ModelCard.load(STAGED / "README.md").data.base_model == "acme/base"
    assert json.loads((STAGED / "record.json").read_text())["config"]["model"]["path"] == "acme/base"
    Path("acme/base").mkdir(parents=True)  # then it is a folder here, and no id
    assert elsa(*words, model=False)[0] == 2


@pytest.mark.usefixtures("no_hub")
def test_facts_of_an_export_that_are_none_are_named(elsa, exported):
    (exported / "export.json").write_text("{}")
    code, _, err = elsa("push", f"checkpoint={exported}", *DRY, model=False)
    assert code == 2
    assert err == f"elsa: {exported}/export.json: no facts of an export: name: field required\n"


@pytest.mark.usefixtures("no_hub")
def test_a_dry_run_takes_the_place_of_the_one_before(elsa, run_folder):
    elsa("push", f"checkpoint={run_folder}", *DRY, model=False)
    (STAGED / "stale.txt").write_text("stale")
    assert elsa("push", f"checkpoint={run_folder}", *DRY, model=False)[0] == 0
    assert not (STAGED / "stale.txt").exists()


@pytest.mark.usefixtures("no_hub")
def test_a_dry_run_never_takes_the_place_of_its_model(elsa, exported):
    (exported / "README.md").write_text("as if it was pushed")
    code, _, err = elsa("push", f"checkpoint={exported}", *DRY, f"to={exported}", model=False)
    assert (code, err) == (2, f"elsa: to={exported}: it holds something else; give a new folder\n")
    assert (exported / "README.md").read_text() == "as if it was pushed"
