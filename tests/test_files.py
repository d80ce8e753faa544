import errno
import os
from pathlib import Path

import pytest

from elsa.errors import LONGEST_NAME, UserError, require_name
from elsa.files import (
    check_writable,
    content_hash,
    explained,
    file_hash,
    file_name,
    known_hash,
    make_folder,
    read_json,
    remove_leftovers,
    write_atomically,
    write_folder_atomically,
    write_json,
)


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})

    def fail(temporary):
        temporary.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, fail)
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert list(tmp_path.iterdir()) == [path]


def test_a_hash_is_that_of_the_content_whatever_the_order():
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1}) != content_hash({"a": 1, "b": 3})


FULL = {
    errno.ENOSPC: "No space left on device", errno.EDQUOT: "Disk quota exceeded", errno.EFBIG: "File too large",
    errno.EROFS: "Read-only file system",
}  # fmt: skip


@pytest.mark.parametrize("number", FULL)
@pytest.mark.parametrize("write", [write_atomically, write_folder_atomically])
def test_what_the_system_refuses_is_one_line_that_names_the_path_and_nothing_is_left(tmp_path, number, write):
    def full(temporary):
        raise OSError(number, "as the system says", str(temporary))

    with pytest.raises(UserError) as caught:
        write(tmp_path / "a", full)
    assert str(caught.value) == f"{tmp_path}/a: cannot be written: {FULL[number]}"
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_has_its_own_error_for_a_full_disk_is_understood(tmp_path):
    def full(temporary):
        raise RuntimeError("I/O error: No space left on device (os error 28)")

    with pytest.raises(UserError, match=r"/a: cannot be written: No space left on device$"):
        write_folder_atomically(tmp_path / "a", full)
    with pytest.raises(ZeroDivisionError):
        write_atomically(tmp_path / "a", lambda temporary: 1 / 0)


def test_a_place_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.json").mkdir()
    for path in (
        tmp_path / "file" / "a.json",
        tmp_path / "folder.json",
        tmp_path / ("x" * 300),
        Path("/proc/x/a.json"),
    ):
        with pytest.raises(UserError) as caught:
            write_json(path, {})
        assert str(caught.value).startswith(f"{path}: cannot be written: ")
    with pytest.raises(UserError, match=r"/file/a: cannot be made: Not a directory$"):
        make_folder(tmp_path / "file" / "a")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder.json"]


def left_by_a_killed_process(folder, monkeypatch):
    """The temporary file and folder of writes that nothing cleaned up after, with another file of a user."""
    (folder / ".gitignore").write_text("")
    (folder / ".lock").write_text("")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "unlink", lambda *_, **__: None)
        patch.setattr("tempfile._shutil.rmtree", lambda *_, **__: None)
        for write in (write_atomically, write_folder_atomically):
            with pytest.raises(KeyboardInterrupt):
                write(folder / "model.json", interrupted)
    return {path.name for path in folder.iterdir()} - {".gitignore", ".lock"}


def interrupted(temporary):
    if temporary.is_dir():
        (temporary / "weights").write_text("half")
    raise KeyboardInterrupt


def test_what_a_killed_process_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    assert len(left_by_a_killed_process(tmp_path, monkeypatch)) == 2
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gitignore", ".lock"]
    remove_leftovers(tmp_path / "nowhere")


@pytest.mark.parametrize("write", [write_atomically, write_folder_atomically])
def test_where_many_write_what_is_left_goes_with_a_write_after_a_day(tmp_path, monkeypatch, write):
    left = left_by_a_killed_process(tmp_path, monkeypatch)

    def written(temporary):
        return temporary.is_dir() or temporary.write_text("whole")

    write(tmp_path / "other", written)
    assert {path.name for path in tmp_path.iterdir()} >= left, "another process may be writing them"
    for name in left:
        os.utime(tmp_path / name, (1e9, 1e9))
    write(tmp_path / "other", written)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".gitignore", ".lock", "other"]


def test_a_folder_takes_the_place_of_whatever_was_there(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for name in ("file", "link"):
        write_folder_atomically(tmp_path / name, lambda temporary: (temporary / "a").write_text("b"))
        assert (tmp_path / name / "a").read_text() == "b"
    assert list((tmp_path / "elsewhere").iterdir()) == []


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("file", "file is no folder"),
        ("file/below/it", "file is no folder"),
        ("link", "link is no folder"),
        ("x" * 300, "File name too long"),
        ("a/" * 3000, "File name too long"),
        ("/proc/x", "cannot be written to: "),
        ("/sys/kernel/x", "cannot be written to: "),
    ],
)
def test_a_folder_that_cannot_be_written_to_is_named_by_its_key(tmp_path, monkeypatch, name, wanted):
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("")
    Path("link").symlink_to("nowhere")
    with pytest.raises(UserError) as caught:
        check_writable("paths.outputs", Path(name))
    assert str(caught.value).startswith(f"paths.outputs={name[:200].removesuffix('/')}")
    assert wanted in str(caught.value)
    assert len(str(caught.value)) < 500


def test_a_folder_is_tried_and_left_as_it_was(tmp_path):
    check_writable("paths.cache", tmp_path / "a" / "b")
    check_writable("paths.cache", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_found_before_the_work(tmp_path, monkeypatch):
    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", full)
    with pytest.raises(UserError, match=r"^paths\.cache=.*: cannot be written to: No space left on device; give"):
        check_writable("paths.cache", tmp_path)


@pytest.mark.parametrize("content", [b"{", b"[]", b"\xff\xfe{\x00", b""])
def test_json_that_is_no_object_is_named(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(UserError, match=r"/a\.json: no "):
        read_json(tmp_path / "a.json")
    assert read_json(tmp_path / "nowhere.json") is None


def test_a_hash_that_cannot_be_read_back_is_found_anew(tmp_path, monkeypatch):
    monkeypatch.setattr("elsa.files._LARGE", 0)
    large = tmp_path / "large"
    large.write_bytes(b"weights")
    assert known_hash(large, tmp_path) == file_hash(large)
    (kept,) = (tmp_path / "hashes").iterdir()
    for content in ("{", "[]", "{}", '{"sha256": "0"}', '{"stamp": [], "sha256": "0"}'):
        kept.write_text(content)
        assert known_hash(large, tmp_path) == file_hash(large)
    monkeypatch.setattr("elsa.files.file_hash", lambda path: pytest.fail("hashed again"))
    known_hash(large, tmp_path)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a/b", "../x", "a b", "a\nb", "ü", "<b>", "a\0", "x" * 101])
def test_a_name_that_is_no_part_of_a_path_is_refused_and_can_be_made_one(name):
    with pytest.raises(UserError, match=r"^model\.name=.*: letters, digits and \. _ - \(no dot first\)") as caught:
        require_name("model.name", name)
    assert "\n" not in str(caught.value)
    require_name("model.name", file_name(name))


@pytest.mark.parametrize("name", ["tiny", "llama_2_7b", "Qwen2.5-0.5B", "0", "x" * LONGEST_NAME])
def test_a_plain_name_stays(name):
    require_name("model.name", name)
    assert file_name(name) == name


def test_only_what_the_system_says_is_explained():
    with pytest.raises(TimeoutError), explained(Path("a"), "read"):
        raise TimeoutError("no number of the system")
