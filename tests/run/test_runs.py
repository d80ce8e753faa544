"""`elsa runs`: what is listed, compared, deleted and kept."""

import json
import os
import pty
import subprocess
import sys
import time
from pathlib import Path

import pytest

from elsa.config.build import build
from elsa.config.choices import all_choices
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.files import write_json
from tests.record.records import record

RUNS = Path("outputs/runs")
CONFIG = {
    "model": {"name": "tiny"}, "seed": 7, "method": {"_target_": "elsa.method.alps.Alps"}, "paths": {"outputs": "x"},
    "sparsity": {"pattern": "unstructured", "ratio": 0.7},
}  # fmt: skip


def put(name, content=None, age=0.0, **files):
    """A run's folder. `age`: days since it was written."""
    folder = RUNS / name
    write_json(folder / "config.json", CONFIG)
    if content is not None:
        write_json(folder / "result.json", content)
    for file, size in files.items():
        (folder / file).write_bytes(b"x" * size)
    then = time.time() - 86400 * age
    for path in folder.iterdir():
        os.utime(path, (then, then))
    return folder


@pytest.fixture
def runs(elsa):
    """Call `elsa runs` beside five runs; the rows of its JSON, or the exit code, what it said and the error."""

    def call(*arguments, plain=False):
        code, out, err = elsa("runs", *arguments, *([] if plain else ["format=json"]), model=False)
        return (code, out, err) if plain else json.loads(out)

    put("a-dense", record(method="dense", pattern="dense", perplexity=9.5), age=3)
    put("a-elsa-0.9-x", record(method="elsa", pattern="90%", perplexity=20.0, seed=1), model=500_000)
    put("a-wanda-2of4-y", record(pattern="2:4", perplexity="inf"), age=40)
    put("a-alps-0.7-z")
    put("b-broken").joinpath("result.json").write_text("{")
    return call


def names(rows):
    return [row["name"] for row in rows]


def test_every_run_is_listed_whether_or_not_it_is_finished(runs):
    rows = {row["name"]: row for row in runs()}
    assert {name: row["state"] for name, row in rows.items()} == {
        "a-alps-0.7-z": "unfinished", "a-dense": "finished", "a-elsa-0.9-x": "finished", "a-wanda-2of4-y": "finished",
        "b-broken": "broken",
    }  # fmt: skip
    alps, elsa = rows["a-alps-0.7-z"], rows["a-elsa-0.9-x"]
    assert [alps[key] for key in ("model", "method", "sparsity", "seed")] == ["tiny", "alps", "70%", 7]
    assert (elsa["perplexity"], elsa["counted"]) == ({"held_out": 20.0}, 0.5)
    assert 500_000 < elsa["bytes"] < 510_000
    assert rows["a-dense"]["age_seconds"] == pytest.approx(3 * 86400, abs=60)


@pytest.mark.parametrize("choice", all_choices("method"))
def test_a_run_that_has_just_begun_is_called_as_its_record_will_call_it(runs, choice):
    config = compose(f"method={choice}", "model.name=b")
    write_json(put("c-begun") / "config.json", config)
    (row,) = runs("name=c-*")
    assert row["method"] == build(PruneConfig, config).method.label


def test_what_is_not_scored_yet_says_so(runs):
    pruned = {key: value for key, value in record(method="best").items() if key != "evaluations"}
    write_json(put("c-best") / "pruned.json", pruned)
    (row,) = runs("name=c-*")
    assert (row["state"], row["method"], row["perplexity"]) == ("pruned", "best", {})


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("method=elsa", ["a-elsa-0.9-x"]),
        ("method=[elsa,w*]", ["a-elsa-0.9-x", "a-wanda-2of4-y"]),
        ("sparsity=90%", ["a-elsa-0.9-x"]),
        ("sparsity=0.7", ["a-alps-0.7-z"]),
        ("sparsity=2:4", ["a-wanda-2of4-y"]),
        ("sparsity=[dense,2:4]", ["a-dense", "a-wanda-2of4-y"]),
        ("seed=[1,7]", ["a-alps-0.7-z", "a-elsa-0.9-x"]),
        ("state=broken", ["b-broken"]),
        ("older_than=2.5", ["a-dense", "a-wanda-2of4-y"]),
        ("only.model=t*", ["a-alps-0.7-z", "a-dense", "a-elsa-0.9-x", "a-wanda-2of4-y"]),
        ("sort=perplexity", ["a-dense", "a-elsa-0.9-x", "a-wanda-2of4-y", "a-alps-0.7-z", "b-broken"]),
        ("sort=-perplexity", ["a-wanda-2of4-y", "a-elsa-0.9-x", "a-dense", "a-alps-0.7-z", "b-broken"]),
        ("sort=-age state=finished", ["a-wanda-2of4-y", "a-dense", "a-elsa-0.9-x"]),
    ],
)
def test_runs_are_chosen_and_sorted(runs, asked, found):
    assert names(runs(*asked.split())) == found


def test_the_list_is_plain_where_it_is_piped(runs):
    code, out, _ = runs(plain=True)
    header, *lines = [line.split("\t") for line in out.splitlines()]
    assert code == 0
    assert header[:6] == ["name", "model", "method", "sparsity", "counted", "perplexity held_out"]
    assert [line[0] for line in lines] == sorted(line[0] for line in lines)
    assert {len(line) for line in lines} == {len(header)}


def test_two_runs_are_compared_by_config_result_and_environment(runs):
    other = record(method="wanda", perplexity=30.0, environment={"libraries": {"torch": "3"}, "threads": 1})
    other["config"] = other["config"] | {"seed": 3}
    put("d-wanda-0.5-w", other)
    found = runs("compare=[a-elsa,d-wanda-0.5-w]")
    assert found["runs"] == ["a-elsa-0.9-x", "d-wanda-0.5-w"]
    assert found["config"] == {"seed": [None, 3]}
    assert found["result"]["perplexity held_out"] == [20.0, 30.0]
    assert found["environment"] == {"libraries.torch": ["2", "3"]}
    code, out, _ = runs("compare=[a-elsa,d-wanda]", "format=table", plain=True)
    assert (code, "+50.0%" in out, "the same in both: data, code" in out) == (0, True, True)
    assert runs("compare=[a-alps,b-broken]")["config"] == {}  # what there is of them


def test_nothing_is_deleted_before_somebody_says_yes(runs):
    code, out, _ = runs("delete=[a-*]", "method=[elsa,wanda]", plain=True)
    assert code == 0
    assert "nothing was deleted; yes=true deletes these 2 runs, 50" in out
    assert runs("delete=a-*", "method=elsa")["would_delete"] == ["a-elsa-0.9-x"]
    assert len(list(RUNS.iterdir())) == 5
    code, out, _ = runs("delete=[a-*]", "method=[elsa,wanda]", "yes=true", plain=True)
    assert (code, "deleted 2 of 2\n" in out) == (0, True)
    assert sorted(path.name for path in RUNS.iterdir()) == ["a-alps-0.7-z", "a-dense", "b-broken"]


def test_what_is_kept_is_never_deleted(runs):
    assert runs("keep=[a-elsa]", plain=True)[:2] == (0, "a-elsa-0.9-x: kept\n")
    why = "it is kept; unkeep=[a-elsa-0.9-x] lets it go"
    assert runs("delete=[*]", "yes=true")["left"] == {"a-elsa-0.9-x": why}
    assert [path.name for path in RUNS.iterdir()] == ["a-elsa-0.9-x"]
    assert runs("delete=a-elsa", "yes=true", plain=True) == (2, "", f"elsa: delete=a-elsa-0.9-x: {why}\n")
    runs("unkeep=[a-elsa]", plain=True)
    assert runs("delete=[outputs/runs/a-elsa-0.9-x/]", "yes=true")["deleted"] == ["a-elsa-0.9-x"]


HOLDER = "import filelock, sys\nwith filelock.FileLock(sys.argv[1]): print(flush=True); sys.stdin.readline()"


def test_what_is_at_work_is_never_deleted(runs):
    command = [sys.executable, "-c", HOLDER, RUNS / "a-dense/.lock"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert names(runs("state=running")) == ["a-dense"]
        assert runs("delete=[a-d*,a-e*]", "yes=true")["left"] == {"a-dense": "a process is at work on it"}
        process.communicate(b"\n")
    assert names(runs("state=running")) == []
    assert (RUNS / "a-dense/result.json").is_file()


@pytest.mark.parametrize(
    ("asked", "line"),
    [
        ("delete=[a]", "delete=a: 4 runs begin so (a-alps-0.7-z, a-dense, a-elsa-0.9-x, …); write a* if all are meant"),
        ("delete=[a-esla-0.9-x]", "delete=a-esla-0.9-x: no such run; did you mean 'a-elsa-0.9-x'?"),
        ("delete=[z*]", "delete=z*: no such run; known: a-alps-0.7-z, a-dense,"),
        ("delete=['']", "delete=: no such run; known: "),
        ("delete=[a-dense] method=elsa", "delete=a-dense: no such run; known: a-elsa-0.9-x"),
        ("keep=[../runs/nope]", "keep=../runs/nope: no such run"),
        ("compare=[a-*,a-dense]", "compare=a-*: 4 runs have such a name; one is wanted"),
        ("compare=[a-dense]", "compare=['a-dense']: two runs, for example compare=[a,b]"),
        ("keep=[a-dense] delete=[a-dense]", "delete and keep: one of them at a time"),
        ("sort=sise", "sort=sise: did you mean 'size'?"),
        ("state=finishd", "only.state=finishd: did you mean 'finished'?"),
        ("format=xml", "format=xml: known: json, tab, table"),
        ("seed=x", "only.seed=x: input should be"),
        ("delte=[a]", "delte: no such key; did you mean 'delete'?"),
    ],
)
def test_mistakes_are_named_in_one_line(runs, asked, line):
    code, out, err = runs(*asked.split(), plain=True)
    assert (code, out) == (2, "")
    assert err.startswith(f"elsa: {line}")
    assert err.count("\n") == 1
    assert len(list(RUNS.iterdir())) == 5


def on_a_terminal(answer, *arguments, **environment):
    """What `elsa runs` prints on a terminal where somebody answers its question."""
    ours, theirs = pty.openpty()
    variables = {key: value for key, value in os.environ.items() if key != "NO_COLOR"} | {"TERM": "xterm-256color"}
    command = [sys.executable, "-m", "elsa", "runs", *arguments]
    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with subprocess.Popen(command, **streams, env=variables | environment) as process:
        os.close(theirs)
        os.write(ours, answer)
        shown = b""
        try:
            while some := os.read(ours, 1 << 16):
                shown += some
        except OSError:  # how Linux says that the other side has gone
            pass
        process.wait()
    os.close(ours)
    return shown.decode()


def test_a_terminal_has_colours_and_is_asked(runs):
    assert "\x1b[32mfinished" in on_a_terminal(b"")
    assert "\x1b[32m" not in on_a_terminal(b"", NO_COLOR="1")
    shown = on_a_terminal(b"n\n", "delete=[a-elsa]")
    assert "delete this 1 run, 50" in shown
    assert "nothing was deleted" in shown
    assert (RUNS / "a-elsa-0.9-x").is_dir()
    on_a_terminal(b"y\n", "delete=[a-elsa]")
    assert not (RUNS / "a-elsa-0.9-x").exists()
