import pytest

from elsa.errors import UserError
from elsa.record.record import read_record, write_record
from elsa.report.figure import perplexity_figure
from elsa.report.table import columns, markdown_table


def record(method, sparsity, model="tiny", **perplexity):
    return {
        "model": model, "method": method, "sparsity": {"counted": sparsity}, "seconds": {"prune": 1234.56},
        "perplexity": {name: {"perplexity": value} for name, value in perplexity.items()},
        "facts": {"calibration_tokens": 1000, "training_tokens": 500}, "peak_memory_bytes": 3 * 2**29,
    }  # fmt: skip


def test_the_table_shows_counted_sparsity_and_marks_what_is_missing():
    headers, rows = columns([record("dense", 0.0, a=10.0, b=20.0), record("wanda", 0.700012, a=1234.5)])
    assert headers == ["method", "sparsity", "perplexity a", "perplexity b", "tokens", "seconds", "peak memory"]
    assert rows[1] == ["wanda", "70.0012%", "1,234.50", "--", "1,500", "1,234.6", "1.50 GiB"]


def test_several_models_get_a_column():
    headers, rows = columns([record("dense", 0.0, a=1.0), record("dense", 0.0, model="other", a=1.0)])
    assert headers[0] == "model"
    assert [row[0] for row in rows] == ["tiny", "other"]


def test_markdown_has_a_line_a_record():
    lines = markdown_table([record("dense", 0.0, a=10.0), record("wanda", 0.7, a=12.0)]).splitlines()
    assert lines[1] == "| --- | ---: | ---: | ---: | ---: | ---: |"
    assert len(lines) == 4


@pytest.mark.parametrize("levels", [[0.9], [0.5, 0.9]], ids=["bars", "curves"])
def test_a_picture_is_drawn_for_one_and_for_several_sparsities(tmp_path, levels):
    records = [record("dense", 0.0, a=10.0, b=11.0)]
    records += [record(method, level, a=20.0 + level, b=30.0) for method in ("wanda", "elsa") for level in levels]
    perplexity_figure(records, tmp_path / "p.png")
    assert (tmp_path / "p.png").stat().st_size > 10_000


def test_a_record_is_read_back_and_its_absence_means_unfinished(tmp_path):
    assert read_record(tmp_path) is None
    write_record(tmp_path, {"name": "x"})
    assert read_record(tmp_path)["name"] == "x"


@pytest.mark.parametrize("content", ["{trunc", '{"format": 99}', "[]"])
def test_a_foreign_or_broken_record_is_named(tmp_path, content):
    (tmp_path / "result.json").write_text(content)
    with pytest.raises(UserError, match=r"result\.json"):
        read_record(tmp_path)
