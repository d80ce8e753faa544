import hashlib
import itertools
import json

import pytest

from elsa.data.sources import SPLITS, HubText, Stdlib, Text, text_hash
from elsa.errors import UserError


def text(**changes):
    return Text(**{"sequence_length": 8, "train": [], "validation": [], "test": [], "join": None} | changes)


def test_stdlib_splits_are_disjoint_complete_and_stable(tmp_path):
    first, second = Stdlib(sequence_length=8), Stdlib(sequence_length=8)
    splits = {split: first.documents(split) for split in ("train", "validation", "test")}
    assert all(len(documents) > 20 for documents in splits.values())
    for one, other in itertools.combinations(splits.values(), 2):
        assert not {document for document in one if len(document) > 200} & set(other)
    assert first.identity("test", tmp_path) == second.identity("test", tmp_path) != first.identity("train", tmp_path)


def test_the_hash_of_a_modules_path_decides_its_split(tmp_path, monkeypatch):
    splits = {"e": "test", "i": "test", "c": "validation", "pkg/g": "validation", "a": "train", "g": "train"}
    others = ["test/c", "pkg/tests/e", "site-packages/i", "encodings/a", "pydoc_data/g"]
    for name in [*splits, *others]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / f"{name}.py").write_text(f"# {name}")
    monkeypatch.setattr("sysconfig.get_paths", lambda: {"stdlib": str(tmp_path)})
    source = Stdlib(sequence_length=8)
    for split in SPLITS:
        expected = sorted(f"# {name}" for name in splits if splits[name] == split)
        assert sorted(source.documents(split)) == expected
        assert source.identity(split, tmp_path) == {"source": "stdlib", "split": split, "sha256": text_hash(expected)}


@pytest.mark.parametrize("split", SPLITS)
def test_each_split_is_read_from_its_own_files(tmp_path, split):
    for name in SPLITS:
        (tmp_path / f"{name}.txt").write_text(f"text of {name}")
    source = text(**{name: [str(tmp_path / f"{name}.txt")] for name in SPLITS})
    source.check(split)
    assert source.documents(split) == [f"text of {split}"]
    content = [[".txt", hashlib.sha256(f"text of {split}".encode()).hexdigest()]]
    expected = {"source": "text", "split": split, "files": content, "join": None, "part": []}
    assert source.identity(split, tmp_path) == expected
    (tmp_path / f"{split}.txt").unlink()
    with pytest.raises(UserError, match=f"{split}=.*no such file"):
        source.check(split)


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
    with pytest.raises(UserError, match=r"a\.jsonl:2: .*`text`; it holds txt"):
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


@pytest.mark.parametrize(("split", "documents"), [("train", ["a", "b"]), ("validation", ["c|d"]), ("test", ["e|f"])])
def test_each_split_is_read_from_its_own_file_on_the_hub(tmp_path, monkeypatch, split, documents):
    for name, words in {"train": "ab", "validation": "cdx", "test": "efx"}.items():
        (tmp_path / f"{name}.json").write_text("\n".join(json.dumps({"text": word}) for word in words))
    asked = []

    def download(**arguments):
        asked.append({key: arguments[key] for key in ("repo_id", "filename", "repo_type", "revision")})
        return str(tmp_path / arguments["filename"])

    monkeypatch.setattr("elsa.data.sources.hf_hub_download", download)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = HubText(
        sequence_length=8, repository="some/data", revision="abc", train="train.json", validation="validation.json",
        test="test.json", join_train=None, join="|", documents_used=2,
    )  # fmt: skip
    assert source.documents(split) == documents
    file = {"repo_id": "some/data", "filename": f"{split}.json", "repo_type": "dataset", "revision": "abc"}
    assert asked == [file]
    assert source.identity(split, tmp_path) == {
        "source": "some/data", "revision": "abc", "file": f"{split}.json", "split": split, "documents_used": 2,
        "join": [None, "|"],
    }  # fmt: skip


@pytest.mark.parametrize("count", [1, 300], ids=["of the text", "of the documents"])
def test_splits_that_are_not_named_are_held_out_of_train(tmp_path, count):
    lines = [f"{number:04} " * (400 // count + 1) for number in range(count)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    source = text(train=[str(tmp_path / "a.jsonl")], held_out=0.1)
    parts = {split: "".join(source.documents(split)) for split in SPLITS}
    whole = len("".join(lines))
    assert len(parts["train"]) == pytest.approx(0.8 * whole, rel=0.1)
    assert len(parts["test"]) == pytest.approx(0.1 * whole, rel=0.3)
    assert sum(map(len, parts.values())) == whole
    if count > 1:
        assert not set(source.documents("train")) & {*source.documents("test"), *source.documents("validation")}
    assert len({json.dumps(source.identity(split, tmp_path)) for split in SPLITS}) == 3
    (tmp_path / "b.txt").write_text("named")
    named = text(train=[str(tmp_path / "a.jsonl")], test=[str(tmp_path / "b.txt")], held_out=0.1)
    assert named.documents("test") == ["named"]
    assert len("".join(named.documents("train"))) == pytest.approx(0.9 * whole, rel=0.1)
