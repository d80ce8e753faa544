"""A page that follows a sweep, without a model: what its runs would leave is put there by hand."""

import json

import pytest

from elsa.config.commands import Paths, ReportConfig
from elsa.errors import UserError
from elsa.record.record import write_record
from elsa.run import report
from elsa.sweep.manifest import Cell, Manifest
from tests.record.records import record


@pytest.fixture
def asked(tmp_path):
    paths = Paths(outputs=str(tmp_path / "out"), cache=str(tmp_path), mirror=None)
    return ReportConfig(records=[str(tmp_path / "sweep")], every=30, paths=paths)


def cells(tmp_path):
    return [
        Cell(at, label, [label], str(tmp_path / "runs" / label), state=state)
        for at, (label, state) in enumerate([("wanda", "waiting"), ("elsa", "running"), ("alps", "waiting")])
    ]


def test_a_page_follows_a_sweep_to_its_end(tmp_path, asked, monkeypatch, capsys):
    """First with nothing finished, then with one run and the step of another, at last as any report."""
    waits, pages = [], []
    manifest = Manifest(tmp_path / "sweep", cells(tmp_path))

    def sleep(seconds):
        waits.append(seconds)
        (page,) = (tmp_path / "out/reports").glob("*/index.html")
        pages.append(page.read_text())
        if len(waits) == 1:
            for name in ("wanda", "elsa"):
                (tmp_path / "runs" / name).mkdir(parents=True)
            write_record(tmp_path / "runs/wanda", record(name="wanda"))
            metrics = [{"step": 64, "loss": 2.5}, {"step": 128, "loss": 1.75}]
            (tmp_path / "runs/elsa/metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in metrics))
            manifest.cells[1].state = "running"
            manifest.save()
        else:
            for name in ("elsa", "alps"):
                write_record(tmp_path / "runs" / name, record(method=name, perplexity=15.0, name=name))
            manifest.__exit__()

    monkeypatch.setattr(report.time, "sleep", sleep)
    manifest.__enter__()
    report._watch(asked, asked.every)
    assert waits == [30, 30]
    first, second = pages
    assert "The sweep goes on: 3 waiting." in first
    assert "The sweep goes on: 1 waiting, 1 running, 1 done." in second
    assert '<td class="word">running</td><td data-key="128.0">128</td><td data-key="1.75">1.75</td>' in second
    assert "runs/wanda.html" in second
    assert all('http-equiv="refresh" content="30"' in page for page in pages)
    (folder,) = (tmp_path / "out/reports").iterdir()
    last = (folder / "index.html").read_text()
    assert "refresh" not in last.split("<style>")[0]
    assert all(f"runs/{name}.html" in last for name in ("wanda", "elsa", "alps"))
    assert {"tables.md", "cells.csv", "perplexity_0.png", "perplexity_0.svg"} <= {
        each.name for each in folder.iterdir()
    }
    assert "| elsa |" in (folder / "tables.md").read_text()


def test_a_sweep_that_has_ended_is_reported_at_once(tmp_path, asked, monkeypatch, capsys):
    monkeypatch.setattr(report.time, "sleep", None)
    with Manifest(tmp_path / "sweep", cells(tmp_path)):
        (tmp_path / "runs/wanda").mkdir(parents=True)
        write_record(tmp_path / "runs/wanda", record(name="wanda"))
    report._watch(asked, asked.every)
    assert len(list((tmp_path / "out/reports").glob("*/tables.md"))) == 1


def test_what_is_no_sweep_is_not_watched(tmp_path, asked):
    (tmp_path / "sweep").mkdir()
    with pytest.raises(UserError, match="every=30: records names no sweep to watch; give the folder of one"):
        report._watch(asked, asked.every)
    with pytest.raises(UserError, match="every=0: seconds, at least 1, or null"):
        ReportConfig(records=[], every=0, paths=asked.paths)


def test_what_generate_has_kept_stands_on_the_page_of_its_run(tmp_path):
    kept = {"prompts": ["Once"], "said": {"pruned": [{"text": "<upon> a time"}]}, "config": {"run": "wanda"}}
    (tmp_path / "generations").mkdir()
    (tmp_path / "generations/a.json").write_text(json.dumps(kept))
    (tmp_path / "generations/b.json").write_text("{")
    found = report._Found([(record(name="wanda"), None), (record("elsa", name="elsa"), None)])
    report._make(tmp_path / "report", found, tmp_path)
    assert "&lt;upon&gt; a time" in (tmp_path / "report/runs/wanda.html").read_text()
    assert "a time" not in (tmp_path / "report/runs/elsa.html").read_text()
