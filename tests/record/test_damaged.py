"""A record is looked at once, where it is read: what is no record is told in one line that says where and why."""

import json
import math

import pytest

from elsa.errors import UserError
from elsa.record.record import parsed, read_pruned, read_record, read_records, views
from elsa.report.grid import accuracy_grids
from elsa.report.table import print_tables
from tests.record.records import answered, damaged, record, wrote

WRITTEN = "evaluations.0.generation"
SET, ZERO_SHOT = "evaluations.0.perplexity.held_out", "evaluations.0.zero_shot"


def refusal(read, *arguments):
    with pytest.raises(UserError) as caught:
        read(*arguments)
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) < 500
    return line


NEEDED = [
    "name", "model", "method", "pattern", "seed", "settings", "config", "sparsity", "seconds", "facts", "environment",
    "peak_memory_bytes", "evaluations", "config.model", "sparsity.counted", "sparsity.zeros", "sparsity.numel",
    "sparsity.tensors", "seconds.prune", "environment.libraries", f"{SET}.perplexity", f"{SET}.windows",
    f"{SET}.length", f"{SET}.split", f"{SET}.formula", f"{SET}.autocast", f"{SET}.data_sha256", f"{ZERO_SHOT}.tasks",
    f"{ZERO_SHOT}.items", f"{ZERO_SHOT}.average_acc", f"{ZERO_SHOT}.limit", f"{ZERO_SHOT}.tasks.rte.n",
    f"{ZERO_SHOT}.tasks.rte.version",
    f"{ZERO_SHOT}.tasks.rte.num_fewshot",
]  # fmt: skip


@pytest.mark.parametrize("key", NEEDED)
def test_a_record_that_lacks_a_key_or_holds_another_kind_there_is_none(key):
    line = refusal(parsed, json.dumps(damaged(answered(), key)), "here")
    assert line == f"here: no record: {key}: field required"
    if not key.endswith("version"):
        assert f"here: no record: {key}" in refusal(parsed, json.dumps(damaged(answered(), key, [])), "here")


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        (f"{SET}.perplexity", 0, "a perplexity is positive"),
        (f"{SET}.perplexity", -3.5, "a perplexity is positive"),
        (f"{SET}.perplexity", -math.inf, "a perplexity is positive"),
        (f"{SET}.perplexity", "many", "no number"),
        (f"{SET}.perplexity", True, "valid number"),
        ("sparsity.counted", 1.5, "less than or equal to 1"),
        ("sparsity.counted", math.nan, "finite number"),
        ("sparsity.zeros", -1, "greater than or equal to 0"),
        ("sparsity.zeros", 10**30, "less than or equal to"),
        ("sparsity.numel", 0, "greater than or equal to 1"),
        ("sparsity.tensors.weight.numel", 0, "greater than or equal to 1"),
        ("seconds.prune", math.inf, "less than or equal"),
        ("environment.threads", 0, "greater than or equal to 1"),
        ("config.sparsity.pattern", "weird", "config.sparsity: pattern=weird: known: unstructured"),
        ("config.sparsity.ratio", 1.0, "config.sparsity: ratio=1.0: the fraction of zeros"),
        ("config.model.begin_with_bos", "yes", "valid boolean"),
        ("pattern", "weird", "should match pattern"),
        ("pattern", "50%<script>", "should match pattern"),
        ("name", "a\nb", "printable"),
        ("model", "x" * 201, "printable"),
        ("model", "\x1b[2J", "printable"),
        ("evaluations", [], "at least 1 item"),
        ("evaluations", [[]], "valid dictionary"),
        (f"{ZERO_SHOT}.tasks", {}, "at least 1 item"),
        (f"{ZERO_SHOT}.tasks.rte.acc", math.nan, "finite"),
        (f"{ZERO_SHOT}.items.rte", ["a"], "valid number"),
        (ZERO_SHOT, None, "valid dictionary"),
    ],
)
def test_what_no_run_can_have_left_is_refused(key, value, wanted):
    line = refusal(parsed, json.dumps(damaged(answered(), key, value)), "here")
    assert line.startswith(f"here: no record: {key.rpartition('.')[0] or key}")
    assert wanted in line


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tasks.gsm8k.tokens", -1),
        ("tasks.gsm8k.repetition", 1.5),
        ("tasks.gsm8k.cut", math.nan),
        ("tasks.gsm8k.max_new_tokens", None),
        ("tasks.gsm8k.metrics.bleu,none.value", math.inf),
        ("items.gsm8k.tokens", ["a"]),
        ("settings", None),
    ],
)
def test_scores_of_generation_are_looked_at(key, value):
    assert parsed(json.dumps(wrote()), "here") == wrote()
    line = refusal(parsed, json.dumps(damaged(wrote(), f"{WRITTEN}.{key}", value)), "here")
    assert line.startswith(f"here: no record: {WRITTEN}.{key}")
    line = refusal(parsed, json.dumps(damaged(wrote(), f"{WRITTEN}_against_dense.gsm8k.tokens.low")), "here")
    assert "gsm8k.tokens.low: field required" in line


def test_answers_asked_in_another_way_are_another_view():
    whole = wrote()
    whole["evaluations"] += wrote()["evaluations"]
    assert len(views(whole)) == 1
    whole["evaluations"][1]["generation"]["settings"]["apply_chat_template"] = True
    assert len(views(whole)) == 2


@pytest.mark.parametrize("value", [math.inf, "inf", math.nan, "nan", 1e300, 7])
def test_a_perplexity_may_be_infinite_or_no_number(value):
    (view,) = views(parsed(json.dumps(damaged(record(), f"{SET}.perplexity", value)), "here"))
    found = view["perplexity"]["held_out"]["perplexity"]
    assert found == float(value) or math.isnan(found)


def test_a_task_may_have_other_metrics_than_accuracy_and_an_accuracy_has_its_error():
    whole = answered()
    scores = whole["evaluations"][0]["zero_shot"]
    del scores["tasks"]["rte"]["acc_stderr"]
    assert "acc without acc_stderr" in refusal(parsed, json.dumps(whole), "here")
    del scores["tasks"]["rte"]["acc"]
    scores |= {"average_acc": None, "items": {}}
    scores["tasks"]["rte"]["word_perplexity"] = 31.5
    records = [view for _ in range(2) for view in views(parsed(json.dumps(whole), "here"))]
    assert records[0]["zero_shot"]["tasks"]["rte"]["word_perplexity"] == 31.5
    print_tables(records)
    assert accuracy_grids(records) == []


def test_what_a_record_holds_besides_is_let_through():
    whole = record(new_key=[1], settings={"anything": {"at": "all"}})
    assert parsed(json.dumps(whole), "here") == whole


@pytest.mark.parametrize(
    ("content", "wanted"),
    [
        (b"", "no valid JSON (Expecting value"),
        (b"{", "no valid JSON (Expecting property name"),
        (b"[]", "no valid JSON object, but a list"),
        (b"3", "no valid JSON object, but a number"),
        (b'"x"', "no valid JSON object, but a string"),
        (b"null", "no valid JSON object, but null"),
        (b"[" * 100_000, "no valid JSON (maximum recursion"),
        (b'{"a": ' + b"1" * 5000 + b"}", "no valid JSON (Exceeds the limit"),
        (b'{"name": "\\ud800"}', "no valid JSON ('utf-8' codec can't encode"),
        ('{"format": 3}'.encode("utf-16"), "no UTF-8 text"),
        (b"\x80\x02}q\x00.", "no UTF-8 text"),
        (b'{"format": 99}', "not a record of format 2 or 3"),
        (b'{"format": [3]}', "not a record of format 2 or 3"),
        (b"{}", "not a record of format 2 or 3"),
        (b'{"format": 2}', "no record: name: field required"),
    ],
)
def test_a_file_that_is_no_record_is_named_with_the_reason(tmp_path, content, wanted):
    (tmp_path / "result.json").write_bytes(content)
    line = refusal(read_record, tmp_path)
    assert line.startswith(f"{tmp_path}/result.json: ")
    assert wanted in line
    assert line.endswith("; delete it to run again")


def test_a_folder_in_the_place_of_a_record_is_named(tmp_path):
    (tmp_path / "result.json").mkdir()
    assert refusal(read_record, tmp_path) == f"{tmp_path}/result.json: no file; delete it to run again"


@pytest.mark.parametrize("second", ["", "{", json.dumps(record(format=4)), json.dumps(damaged(record(), "settings"))])
def test_a_broken_line_is_named_by_its_number(tmp_path, second):
    path = tmp_path / "records.jsonl"
    path.write_text("\n".join([json.dumps(record()), second, json.dumps(record())]) + "\n")
    assert refusal(read_records, path).startswith(f"{path}, line 2: no")


def test_a_line_may_hold_what_python_takes_for_the_end_of_one(tmp_path):
    path = tmp_path / "records.jsonl"
    path.write_text(json.dumps(record(note="a\u2028b\x85c"), ensure_ascii=False))
    assert read_records(path)[0]["note"] == "a\u2028b\x85c"


def test_an_old_record_with_the_wrong_kinds_is_refused_before_it_is_read_as_one_of_today():
    old = record(format=2, perplexity={}, settings={"method": "wanda"})
    assert parsed(json.dumps(old), "here")["format"] == 3
    for key in ("config", "seconds", "settings"):
        assert f"no record: {key}" in refusal(parsed, json.dumps(old | {key: "text"}), "here")


def test_what_was_pruned_is_looked_at_in_the_same_way(tmp_path):
    assert read_pruned(tmp_path) is None
    (tmp_path / "pruned.json").write_text(json.dumps(record()))
    assert read_pruned(tmp_path) == record()
    (tmp_path / "pruned.json").write_text(json.dumps(damaged(record(), "sparsity.zeros")))
    assert refusal(read_pruned, tmp_path) == f"{tmp_path}/pruned.json: no record: sparsity.zeros: field required"
