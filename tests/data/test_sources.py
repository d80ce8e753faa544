import json

import pytest

from elsa.data.sources import HubText, Stdlib, Text
from elsa.errors import UserError


def text(**changes):
    return Text(**{"sequence_length": 8, "train": [], "validation": [], "test": [], "join": None} | changes)


def test_stdlib_splits_are_disjoint_complete_and_stable(tmp_path):
    first, second = Stdlib(sequence_length=8), Stdlib(sequence_length=8)
    splits = {split: first.documents(split) for split in ("train", "validation", "test")}
    assert all(len(documents) > 20 for documents in splits.values())
    assert not {document for document in splits["train"] if len(document) > 200} & set(splits["test"])
    assert first.identity("test", tmp_path) == second.identity("test", tmp_path) != first.identity("train", tmp_path)


def test_jsonl_lines_and_plain_files_are_documents(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": "one\u2028line"}, ensure_ascii=False) + '\n{"text": "two"}\n')
    (tmp_path / "b.txt").write_text("three")
    assert text(train=[str(tmp_path)]).documents("train") == ["one\u2028line", "two", "three"]
    assert text(train=[str(tmp_path)], join="|").documents("train") == ["one\u2028line|two|three"]


def test_identity_follows_the_content(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    source = text(train=[str(tmp_path)])
    before = source.identity("train", tmp_path)
    (tmp_path / "a.txt").write_text("two")
    assert source.identity("train", tmp_path) != before


def test_a_wrong_line_is_named(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "fine"}\n{"txt": "wrong"}\n')
    with pytest.raises(UserError, match=r"a\.jsonl:2: .*`text`"):
        text(train=[str(tmp_path)]).documents("train")


def test_missing_files_and_splits_are_refused_before_work():
    with pytest.raises(UserError, match=r"train=/no/such\.txt: no such file"):
        text(train=["/no/such.txt"]).check("train")
    with pytest.raises(UserError, match=r"test=\[\]: this run needs the split"):
        text(train=["/no/such.txt"]).check("test")


def test_offline_a_hub_data_set_fails_at_once_and_names_the_file():
    source = HubText(
        sequence_length=8, repository="some/data", revision="abc", train="train.json.gz", validation="v", test="t",
        join_train=None, join=" ", documents_used=None,
    )  # fmt: skip
    with pytest.raises(UserError, match=r"train=train\.json\.gz: not in the cache.*some/data.*data=text"):
        source.check("train")


def test_a_cached_hub_file_is_read_offline(tmp_path, monkeypatch):
    path = tmp_path / "rows.json"
    path.write_text("\n".join(json.dumps({"text": word}) for word in ("a", "b", "c")))
    monkeypatch.setattr("elsa.data.sources.hf_hub_download", lambda **arguments: str(path))
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = HubText(
        sequence_length=8, repository="some/data", revision="abc", train="x", validation="x", test="x",
        join_train=None, join=" ", documents_used=2,
    )  # fmt: skip
    assert source.documents("train") == ["a", "b", "c"]
    assert source.documents("test") == ["a b"]
