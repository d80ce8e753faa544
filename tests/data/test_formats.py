import bz2
import csv
import gzip
import json

import pyarrow
import pytest
from pyarrow import parquet

from elsa.data.formats import files_of, read_documents
from elsa.errors import UserError

TEXTS = ['one, "quoted"\nand a second line', "zwei – ünïcode \u2028 🙂", ""]
LINES = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in TEXTS)


def separated(path, delimiter):
    with path.open("w", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([["id", "text"], *([i, text] for i, text in enumerate(TEXTS))])


def zst(path):
    with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
        file.write(LINES.encode())


WRITERS = {
    "a.jsonl": lambda path: path.write_text(LINES),
    "a.ndjson": lambda path: path.write_text(LINES),
    "a.JSONL": lambda path: path.write_text(LINES),
    "bom.jsonl": lambda path: path.write_text(LINES, encoding="utf-8-sig"),
    "a.jsonl.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "a.jsonl.bz2": lambda path: path.write_bytes(bz2.compress(LINES.encode())),
    "a.jsonl.zst": zst,
    "list.json": lambda path: path.write_text(json.dumps([{"text": text} for text in TEXTS], indent=1)),
    "lines.json": lambda path: path.write_text(LINES),
    "lines.json.gz": lambda path: path.write_bytes(gzip.compress(LINES.encode())),
    "a.csv": lambda path: separated(path, ","),
    "a.tsv": lambda path: separated(path, "\t"),
    "a.parquet": lambda path: parquet.write_table(pyarrow.table({"id": [1, 2, 3], "text": TEXTS}), path),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_format_gives_its_texts(tmp_path, name):
    WRITERS[name](tmp_path / name)
    assert read_documents(str(tmp_path / name)) == TEXTS


def test_plain_text_is_one_document_and_may_be_compressed(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbffirst\r\nsecond\rthird")
    (tmp_path / "b.md.gz").write_bytes(gzip.compress(b"packed", mtime=0))
    (tmp_path / "c").write_text("no suffix")
    assert read_documents(str(tmp_path)) == ["first\nsecond\nthird", "packed", "no suffix"]


def test_one_object_over_several_lines_is_one_document(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"text": "one", "id": 3}, indent=2))
    assert read_documents(str(tmp_path / "a.json")) == ["one"]


def test_the_text_may_stand_in_another_column(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"content": "one"}\n')
    parquet.write_table(pyarrow.table({"content": ["two"], "text": [1]}), tmp_path / "b.parquet")
    assert read_documents(str(tmp_path), "content") == ["one", "two"]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.txt", b"", "the file is empty"),
        ("blank.txt", b" \n\n", "holds no words"),
        ("empty.jsonl.gz", gzip.compress(b"", mtime=0), "holds no words"),
        ("picture.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", r"binary, no text \(byte 0x89 in line 1\)"),
        ("nul.txt", b"fine\nfine \0 here", r"binary, no text \(a NUL byte in line 2\)"),
        ("table.parquet", b"no parquet", "cannot be read"),
        ("cut.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)[:40], "cannot be read"),
        ("named.gz", b"no gzip at all", "cannot be read"),
        ("latin.txt", b"fine\nna\xefve", r"no UTF-8 text \(byte 0xef in line 2\)"),
        ("utf16.txt", "text".encode("utf-16"), r"UTF-16 text; .*iconv"),
        ("utf16.jsonl", LINES.encode("utf-16"), r"UTF-16 text; .*iconv"),
        ("null.jsonl", b'{"text": "one"}\n{"text": null}\n', r"null\.jsonl:2: `text` is null"),
        ("number.jsonl", b'{"text": 3}\n', r"number\.jsonl:1: `text` is a int"),
        ("list.jsonl", b'{"text": ["a"]}\n', r"list\.jsonl:1: `text` is a list"),
        ("array.jsonl", b"[1, 2]\n", r"array\.jsonl:1: an object with a `text` is wanted, not a list"),
        ("blank.jsonl", b'{"text": "one"}\n\n{"text": "two"}\n', r"blank\.jsonl:2: no valid JSON"),
        ("cut.jsonl", b'{"text": "one"}\n{"tex', r"cut\.jsonl:2: no valid JSON"),
        ("surrogate.jsonl", b'{"text": "\\ud800"}\n', r"surrogate\.jsonl:1: .*half a surrogate pair"),
        ("broken.json", b'[{"text": "one"},', "no valid JSON"),
        ("empty.json", b"[]", "has no rows"),
        ("item.json", b'[{"text": "one"}, 3]', r"item\.json, item 2: an object .*not a int"),
        ("other.csv", b"id,content\n1,one\n", r"other\.csv:2: no `text`; it holds id, content \(data\.column"),
        ("header.csv", b"id,text\n", "has no rows"),
        ("short.csv", b"id,text\n1\n", r"short\.csv:2: `text` is null"),
        ("quote.csv", b'id,text\n1,"open\n', r"quote\.csv:\d+: no valid row"),
    ],
)
def test_what_is_no_text_is_refused_by_name_and_line(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=said) as caught:
        read_documents(str(tmp_path / name))
    assert "\n" not in str(caught.value)
    assert name in str(caught.value)


def test_a_folder_leaves_aside_what_is_no_text_and_says_so(tmp_path, caplog):
    for name in (".git/objects/pack", ".hidden.txt", "sub/.cache/x.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("hidden")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "sub/b.jsonl").write_text('{"text": "two"}\n')
    (tmp_path / "c.png").write_bytes(b"\x89PNG\0")
    (tmp_path / "d.txt").write_text("")
    (tmp_path / "package.json").write_text('{"name": "x"}')
    with caplog.at_level("INFO", logger="elsa"):
        assert read_documents(str(tmp_path)) == ["one", "two"]
    assert "2 documents of 2 files; 3 left aside" in caplog.text
    assert "c.png: binary" in caplog.text
    assert [path.name for path in files_of(str(tmp_path))] == ["a.txt", "c.png", "d.txt", "package.json", "b.jsonl"]


def test_a_broken_line_in_a_folder_is_no_reason_to_leave_the_file_aside(tmp_path):
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.jsonl").write_text('{"text": "two"}\n{"txt": "three"}\n')
    with pytest.raises(UserError, match=r"b\.jsonl:2: no `text`"):
        read_documents(str(tmp_path))


def test_a_folder_without_text_is_refused(tmp_path):
    (tmp_path / "c.png").write_bytes(b"\x89PNG\0")
    with pytest.raises(UserError, match=r"no text in this folder; 1 left aside \(.*c\.png"):
        read_documents(str(tmp_path))
