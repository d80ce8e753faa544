from elsa.record.record import read_record, views, write_record
from elsa.report.table import columns, markdown_table, print_tables, print_zero_shot, score_tables
from tests.record.records import record as whole
from tests.record.records import wrote


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


def answered(method, limit=None, **more):
    task = {"acc": 0.6, "acc_stderr": 0.069, "n": 50, "version": 1.0, "num_fewshot": 0}
    tasks = {"rte": task, "arc_easy": task | {"acc": 0.5, "acc_norm": 0.42, "acc_norm_stderr": 0.071}}
    return (
        record(method, 0.5, a=9.0)
        | {"pattern": "50%", "zero_shot": {"tasks": tasks, "average_acc": 0.55, "limit": limit}}
        | more
    )


def test_accuracies_are_printed_by_task_and_against_the_dense_model(capsys):
    pair = {"difference": -0.1, "low": -0.25, "high": 0.05, "lost": 8, "gained": 3, "n": 50}
    print_zero_shot([answered("wanda", zero_shot_against_dense={"rte": pair}), record("alps", 0.5, a=9.0)])
    out = capsys.readouterr().out
    assert out.split("\n")[0].strip() == "zero-shot accuracy"
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "wanda" in line]
    assert rows == [
        ["wanda", "50%", "rte", "0.600 ± 0.069", "--", "50", "-0.100 [-0.250, +0.050]", "8, 3"],
        ["wanda", "50%", "arc_easy", "0.500 ± 0.069", "0.420 ± 0.071", "50", "--", "--"],
    ]
    assert "alps" not in out


def test_limited_accuracies_are_called_so(capsys):
    runs = [answered("wanda", limit=10), answered("alps"), record("elsa", 0.5, a=9.0)]
    headers, rows = columns(runs)
    assert [row[headers.index("zero-shot acc")] for row in rows] == ["55.00% (limited)", "55.00%", "--"]
    print_zero_shot(runs)
    assert "zero-shot accuracy, limited" in capsys.readouterr().out


def test_what_is_written_is_printed_by_task_and_against_the_dense_model(capsys):
    (view,) = views(wrote())
    headers, rows = columns([view, record("alps", 0.5, a=9.0)])
    assert [row[headers.index("generation acc")] for row in rows] == ["50.00%", "--"]
    print_tables([view])
    first, second = (
        [cell.strip() for cell in line.split("│")[1:-1]] for line in capsys.readouterr().out.splitlines()[-3:-1]
    )
    assert first == [
        "wanda", "50%", "gsm8k", "0.500 ± 0.100", "120.5", "25.0%", "12.5%", "2", "5",
        "exact_match,strict-match 0.5 (acc);",
    ]  # fmt: skip
    shares = "(-12.5 [-50.0, +25.0])"
    changes = ["(-0.125 [-0.500, +0.250])", "(+20.5 [-1.0, +42.0])", shares, shares]
    assert second == ["", "", "", *changes, "", "", "bleu,none 31.25"]
    header, row = score_tables(view)["generation_table"]
    assert dict(zip(header, row, strict=True)) == {
        "task": "gsm8k", "acc": 0.5, "acc_stderr": 0.1, "tokens": 120.5, "repetition": 0.25, "cut": 0.125, "n": 2
    }  # fmt: skip


def test_a_record_is_read_back_and_its_absence_means_unfinished(tmp_path):
    assert read_record(tmp_path) is None
    write_record(tmp_path, whole(name="x"))
    assert read_record(tmp_path) == whole(name="x")
