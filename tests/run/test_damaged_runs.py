"""What lies in the outputs may be damaged: the answer is one line, or words and the work done again."""

import errno
import json
import shutil
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from elsa.api import _model
from elsa.config.compose import sweep_name
from elsa.data.sources import Stdlib
from elsa.errors import UserError
from elsa.evaluation.perplexity import Perplexity
from elsa.model.loading import PackagedGguf
from elsa.record.record import read_record
from tests.record.records import answered, damaged, record
from tests.run.runs import of, records

QUICK = ["method=magnitude", "sparsity.ratio=0.9"]


def kept(name, content):
    folder = Path("outputs/runs") / name
    folder.mkdir(parents=True)
    path = folder / "result.json"
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def one_line(answer):
    """What a command said that exited with 2 in one line, after any bars of progress."""
    code, _, err = answer
    assert code == 2, err
    lines = [line for line in err.splitlines(keepends=True) if line.strip() and "it/s]" not in line]
    assert len(lines) == 1, err
    return lines[0]


BROKEN = {
    "list": b"[]", "empty": b"", "utf16": json.dumps(record()).encode("utf-16"), "binary": bytes(range(256)),
    "v1": record(format=1), "v99": record(format=99), "settings": damaged(record(), "settings"), "folder": None,
    "zero": record(perplexity=0.0), "negative": record(perplexity=-1.0), "string": record(facts="x"),
    "pattern": damaged(record(), "config.sparsity.pattern", "weird"), "label": record(pattern="weird"),
    "scores": damaged(record(), "evaluations.0.perplexity", "x"),
    "no_score": damaged(record(), "evaluations.0.perplexity.held_out.perplexity"),
    "name": record(name="a\nb"), "surrogate": b'{"name": "\\udc80"}',
}  # fmt: skip


def test_a_report_of_a_folder_names_what_is_no_record_and_shows_the_rest(elsa):
    for name, content in BROKEN.items():
        kept(name, content)
    kept("good", record())
    code, out, err = elsa("report", model=False)
    assert code == 0, err
    assert "20.00" in out
    assert len(err.splitlines()) == len(BROKEN)
    for name in BROKEN:
        assert err.count(f"elsa: skipped outputs/runs/{name}/result.json: ") == 1
    shutil.rmtree("outputs/runs/good")
    code, _, err = elsa("report", "paths.outputs=elsewhere", "records=[outputs/runs]", model=False)
    assert code == 2
    assert err.splitlines()[-1].startswith("elsa: records=['outputs/runs']: no finished run below")
    assert not Path("elsewhere").exists()


@pytest.mark.parametrize("name", [name for name, content in BROKEN.items() if content is not None])
def test_a_file_of_records_that_is_broken_is_refused_with_the_line(elsa, name):
    content = BROKEN[name]
    content = content if isinstance(content, bytes) else json.dumps(content).encode()
    Path("r.jsonl").write_bytes(json.dumps(record()).encode() + b"\n" + content + b"\n")
    line = one_line(elsa("report", "records=[r.jsonl]", model=False))
    assert line.startswith("elsa: r.jsonl" if name in ("utf16", "binary") else "elsa: r.jsonl, line 2: no")
    assert not Path("outputs").exists()
    answer = elsa("reproduce", "record=r.jsonl:1", model=False)
    assert one_line(answer).startswith("elsa: r.jsonl")


def test_a_page_of_records_with_html_in_every_name_holds_no_script(elsa):
    odd = "<script>alert(1)</script>"
    whole = [answered(name=f"{odd}{n}", model=odd, method=odd, settings={odd: f"{odd}{n}"}) for n in range(2)]
    for each in whole:
        sets, tasks = each["evaluations"][0]["perplexity"], each["evaluations"][0]["zero_shot"]["tasks"]
        sets[odd], tasks[odd] = sets.pop("held_out"), tasks.pop("rte")
    Path("r.jsonl").write_text("".join(json.dumps(each) + "\n" for each in whole))
    code, _, err = elsa("report", "records=[r.jsonl]", model=False)
    assert code == 0, err
    (folder,) = Path("outputs/reports").iterdir()
    page = (folder / "index.html").read_text()
    assert "<script>alert" not in page
    assert "alert(1)</script" not in page
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script" not in (folder / "tables.md").read_text()


@pytest.mark.parametrize("content", ["{", "[]", '{"cells": 5}', '{"cells": [5]}', '{"cells": [{"number": 1}]}', "\0"])
def test_a_broken_sweep_is_named(elsa, content):
    assert one_line(elsa("status", model=False)).startswith("elsa: paths.outputs=outputs: no sweep was started there")
    Path("outputs/sweeps/a").mkdir(parents=True)
    Path("outputs/sweeps/a/manifest.json").write_text(content)
    wanted = "elsa: outputs/sweeps/a/manifest.json: no manifest of a sweep; delete it to start the sweep again\n"
    assert one_line(elsa("status", model=False)) == wanted
    assert one_line(elsa("report", "records=[outputs/sweeps/a]", model=False)) == wanted


CELL = {"number": 0, "label": "data.train=[/tmp/a.txt]", "overrides": [], "folder": "outputs/runs/a"}


@pytest.mark.parametrize("wrong", [{"state": "weird"}, {"seconds": "x"}, {"attempts": None}, {"label": 5}])
def test_a_cell_with_the_wrong_kinds_is_none(elsa, wrong):
    Path("outputs/sweeps/a").mkdir(parents=True)
    Path("outputs/sweeps/a/manifest.json").write_text(json.dumps({"cells": [CELL | wrong]}))
    assert "no manifest of a sweep" in one_line(elsa("status", model=False))


def test_a_status_shows_labels_as_they_are_and_needs_neither_lock_nor_metrics(elsa):
    kept("a", b"{")
    Path("outputs/sweeps/a/.lock").mkdir(parents=True)
    cells = [CELL | {"state": "running", "evaluation": "k"}, CELL | {"state": "done", "evaluation": "k"}]
    Path("outputs/sweeps/a/manifest.json").write_text(json.dumps({"cells": cells}))
    Path("outputs/runs/a/metrics.jsonl").write_text("[]\n")
    Path("outputs/runs/a/config.json").write_text("{")
    code, out, err = elsa("status", model=False)
    assert (code, err) == (0, "")
    assert out.count("data.train=[/tmp/a.txt]") == 2
    code, _, err = elsa("report", "records=[outputs/sweeps/a]", model=False)
    assert code == 2
    assert err.count("no record of data.train=[/tmp/a.txt]: outputs/runs/a/result.json: no valid JSON") == 2


def interrupted(elsa, monkeypatch):
    """A run that was pruned and saved and not evaluated; its folder."""
    elsa("method=dense")

    def broken(self, model, held_out):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Perplexity, "evaluate", broken)
        with pytest.raises(KeyboardInterrupt):
            elsa(*QUICK)
    (folder,) = (path.parent for path in Path().glob("outputs/runs/*/pruned.json"))
    return folder


def cut(path):
    path.write_bytes(path.read_bytes()[:-8])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


PRUNED = {
    "no JSON": lambda run: (run / "pruned.json").write_text("{"),
    "empty": lambda run: (run / "pruned.json").write_text(""),
    "another record": lambda run: (run / "pruned.json").write_text('{"name": "x"}'),
    "no model": lambda run: shutil.rmtree(run / "model"),
    "no weights": lambda run: (run / "model/model.safetensors").unlink(),
    "cut weights": lambda run: cut(run / "model/model.safetensors"),
    "another bit": lambda run: flip(run / "model/model.safetensors"),
    "no config": lambda run: (run / "model/config.json").unlink(),
    "broken config": lambda run: (run / "model/config.json").write_text("{"),
    "a file": lambda run: (shutil.rmtree(run / "model"), (run / "model").write_text("")),
}


@pytest.mark.parametrize("damage", PRUNED.values(), ids=PRUNED)
def test_what_was_saved_and_is_damaged_is_pruned_again_and_said(elsa, monkeypatch, damage):
    folder = interrupted(elsa, monkeypatch)
    weights = (folder / "model/model.safetensors").read_bytes()
    damage(folder)
    (folder / ".config.part-12345678.json").write_text("left by a killed process")
    (folder / ".model.part-12345678").mkdir()
    code, _, err = elsa(*QUICK)
    assert code == 0, err
    assert [line.endswith("; pruning again") for line in err.splitlines() if line.startswith("elsa: ")] == [True]
    assert (folder / "model/model.safetensors").read_bytes() == weights
    assert of("magnitude")[1]["sparsity"]["counted"] == pytest.approx(0.9, abs=1e-3)
    assert not list(folder.glob(".*part-*"))


def test_scores_of_before_are_kept_if_the_same_bits_come_out_again(elsa):
    elsa(*QUICK)
    folder, _ = of("magnitude")
    shutil.rmtree(folder / "model")
    code, _, err = elsa(*QUICK, "eval.windows=2")
    assert code == 0, err
    assert "pruning again" in err
    assert len(read_record(folder)["evaluations"]) == 2


def test_changes_of_the_mask_that_are_broken_cost_a_picture_and_no_run(elsa, monkeypatch):
    folder = interrupted(elsa, monkeypatch)
    (folder / "mask_changes.json").write_text('{"2": {"a": 1.0}, "x": 5}')
    code, _, err = elsa(*QUICK)
    assert code == 0, err
    assert "mask_changes.json: broken" in err
    assert not (folder / "mask_change.png").exists()


@pytest.mark.parametrize("name", [".lock", "result.json", "config.json", "pruned.json"])
def test_a_folder_in_the_place_of_a_file_is_named(elsa, monkeypatch, name):
    folder = interrupted(elsa, monkeypatch)
    (folder / name).unlink(missing_ok=True)
    (folder / name).mkdir()
    assert one_line(elsa(*QUICK)).startswith(f"elsa: {folder}/{name}: ")


def test_a_record_that_is_damaged_is_refused_by_all_who_read_it(elsa, corpus):
    elsa(*QUICK)
    folder, found = of("magnitude")
    path = folder / "result.json"
    for key in ("environment", "evaluations", "sparsity", "config"):
        path.write_text(json.dumps(damaged(json.loads(json.dumps(found | {"evaluations": []})), key)))
        for command in ([*QUICK], ["evaluate", f"checkpoint={folder}", *corpus], ["reproduce", f"record={path}"]):
            line = one_line(elsa(*command, model=command[0] == QUICK[0]))
            assert f"result.json: no record: {key}: field required" in line


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("config.method", 5, "its config is none of this version: method=5"),
        ("config.method._target_", "os.system", "its config is none of this version: method._target_=os.system"),
        ("config.method._target_", 5, "its config is none of this version: method._target_=5"),
        ("config.training", [], "its config is none of this version: training=[]"),
        ("config.seed", "x", "its config is none of this version: seed=x"),
        ("evaluations.0.config", None, "its config is none of this version: eval=null"),
        ("config.model.name", "../x", "its config is none of this version: model.name=../x: letters"),
        ("method", "checkpoint", "it scored a folder that no run left"),
    ],
)
def test_a_record_that_cannot_be_run_again_is_refused_in_one_line(elsa, key, value, wanted):
    elsa(*QUICK)
    folder, _ = of("magnitude")
    path = folder / "result.json"
    path.write_text(json.dumps(damaged(json.loads(path.read_text()), key, value)))
    line = one_line(elsa("reproduce", f"record={folder}", model=False))
    assert line.startswith(f"elsa: record={folder}: {wanted}")
    assert not Path("outputs/reproductions").exists()


@pytest.mark.parametrize("name", ["../../evil", "a/b", "..", "''", "'a b'", "<b>", "x" * 101, ".a", "'a\nb'"])
def test_a_models_name_is_part_of_a_path(elsa, name):
    line = one_line(elsa(*QUICK, f'model.name="{name}"' if "'" not in name else f"model.name={name}", model=False))
    assert line.startswith("elsa: model.name=")
    assert "letters, digits and . _ - (no dot first), at most 100" in line
    assert not Path("outputs").exists()


def test_the_name_of_a_set_is_part_of_a_path():
    with pytest.raises(UserError, match=r"^sets=\.\./x: letters, digits"):
        Perplexity(sets={"../x": Stdlib()})


def test_the_version_of_a_package_and_the_name_of_a_sweep_are_parts_of_a_path():
    with pytest.raises(UserError, match=r"^version=\.\./x: letters, digits"):
        PackagedGguf(name="a", package="json", version="../x", file="f").check()
    assert sweep_name(OmegaConf.create({"sweep": "of/mine"}), [], None).startswith("of_mine-")


def test_a_folder_with_any_name_is_scored_and_pruned(elsa, saved_model, corpus):
    folder = saved_model.rename(saved_model.with_name("a model, (2)"))
    code, _, err = elsa("evaluate", f"checkpoint='{folder}'", *corpus, model=False)
    assert code == 0, err
    (path,) = Path("outputs/evaluations").iterdir()
    assert path.name.startswith("a_model___2_-")
    assert "model.name='a_model___2_'" in _model(folder)


@pytest.mark.parametrize("key", ["outputs", "cache"])
@pytest.mark.parametrize("place", ["file", "file/below", "/proc/x", "/sys/kernel/x", "long"])
def test_folders_that_cannot_be_written_to_are_found_before_anything_else(elsa, key, place, corpus, saved_model):
    Path("file").write_text("")
    before = set(Path().rglob("*"))
    given = f"paths.{key}={'x' * 300 if place == 'long' else place}"
    for command in ([*QUICK], ["evaluate", f"checkpoint={saved_model}", *corpus]):
        line = one_line(elsa(*command, given, model=command[0] == QUICK[0]))
        assert line.startswith(f"elsa: paths.{key}=")
    code, out, err = elsa("doctor", *QUICK, given)
    assert code == 2
    assert "elsa: doctor: folders" in err
    assert f"paths.{key}=" in out
    assert set(Path().rglob("*")) == before
    assert "[nowhere]" in elsa("doctor", *QUICK, "paths.mirror='x[nowhere]'")[1], "no markup"


def test_a_report_into_a_file_and_a_sweep_below_one_are_refused(elsa):
    Path("file").write_text("")
    Path("r.jsonl").write_text(json.dumps(record()))
    line = one_line(elsa("report", "records=[r.jsonl]", "paths.outputs=file", model=False))
    assert line == f"elsa: paths.outputs=file: {Path('file').absolute()} is no folder\n"
    assert "file" in one_line(elsa("-m", *QUICK, "seed=1,2", "paths.outputs=file/x"))


def test_a_full_disk_at_any_write_is_one_line(elsa, monkeypatch):
    real = Path.write_text

    def full(self, text, **options):
        if ".result.part-" in str(self):
            raise OSError(errno.ENOSPC, "No space left on device", str(self))
        return real(self, text, **options)

    monkeypatch.setattr(Path, "write_text", full)
    line = one_line(elsa(*QUICK))
    assert line.startswith("elsa: outputs/runs/small-dense-")
    assert line.endswith("/result.json: cannot be written: No space left on device\n")
    assert not list(Path().glob("outputs/runs/*/.*part-*"))
    monkeypatch.undo()


@pytest.mark.parametrize("name", [None, "metrics.jsonl"])
def test_a_disk_that_is_full_where_nothing_else_explains_it_is_one_line(elsa, monkeypatch, name):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device", name)

    monkeypatch.setattr("elsa.run.job.sparsity_figure", full)
    line = one_line(elsa(*QUICK))
    assert line == f"elsa: {name or 'a file of this run'}: No space left on device\n"


def test_a_finished_run_leaves_no_temporary_file(elsa):
    elsa(*QUICK)
    elsa("report", model=False)
    assert records()
    assert not [path for path in Path().rglob("*") if ".part-" in path.name]
