"""Data sets of the hub: streamed as far as they are needed, kept in the mirror, and the same without network."""

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from elsa import hub as elsa_hub
from elsa.data import streams
from elsa.data.chat import HubChat
from elsa.data.sources import SPLITS, place_of
from elsa.data.streams import HubStream
from elsa.data.windows import WindowReader
from elsa.errors import UserError
from tests.data.chats import PLAIN, chat, shown, word_tokenizer
from tests.data.hubs import SHA, pretended_hub

TEXTS = [f"{number:04} words" for number in range(1000)]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr(streams, "_A_FILE", 16)
    found = pretended_hub(monkeypatch, tmp_path)
    found.add("owner/set", "small", train=[{"text": text, "id": 3} for text in TEXTS], held=[{"text": "held"}])
    elsa_hub.use_mirror(str(tmp_path / "mirror"))
    yield found
    elsa_hub.use_mirror(None)


def source(**changes):
    given = {"name": "owner/set", "subset": "small", "sequence_length": 8, "buffer_size": 10, "documents_used": 20}
    return HubStream(**given | changes)


def random(seed=0):
    return np.random.default_rng(seed)


def test_only_as_many_documents_are_streamed_as_are_taken(hub):
    found = list(islice(source(held_out=0.0).drawn("train", random()), 40))
    assert sorted(found[:10]) == TEXTS[:10] != found[:10]
    assert found[10:] == TEXTS[10:40]
    assert hub.read == 48  # whole files of 16
    assert list(islice(source(held_out=0.0).drawn("train", random(1)), 10)) != found[:10]
    assert hub.read == 48


def test_windows_take_as_many_documents_as_they_need(hub, tokenizer, tmp_path):
    reader = WindowReader(tokenizer=tokenizer, cache=tmp_path / "cache")
    windows = reader.training(source(held_out=0.0), 100, seed=0)
    few = hub.read
    assert windows.shape == (100, 8)
    assert few < 1000
    text = tokenizer.decode(windows.flatten()[:200].tolist())
    assert "words" in text
    assert (reader.training(source(held_out=0.0), 1500, seed=0) >= 0).all()
    assert hub.read > few


def test_what_was_streamed_is_there_without_network_and_no_more(hub):
    online = list(islice(source().drawn("train", random()), 30))
    scored, commit = source().documents("test"), source().identity("test", None)
    hub.online, read = False, hub.read
    again = source()
    again.check("train")
    again.check("test")
    assert list(islice(again.drawn("train", random()), 30)) == online
    assert again.documents("test") == scored
    assert again.identity("test", None) == commit
    assert hub.read == read
    wanted = r"name=owner/set: the split train of small from document \d+ on is not in .*mirror/streams, and the hub"
    with pytest.raises(UserError, match=wanted):
        list(again.drawn("train", random()))


def test_a_stream_goes_on_where_its_files_end(hub):
    list(islice(source(held_out=0.0).drawn("train", random()), 20))
    assert list(source(held_out=0.0).drawn("train", random()))[10:] == TEXTS[10:]
    assert hub.asked == [SHA, SHA]


def test_a_file_that_another_process_wrote_meanwhile_moves_nothing(hub):
    rows = source(held_out=0.0).drawn("train", random())
    first = list(islice(rows, 12))
    (folder,) = (elsa_hub.streams() / "owner--set" / SHA).iterdir()
    (folder / "000001.jsonl").write_text("".join(f"{json.dumps(text)}\n" for text in TEXTS[16:32]))
    assert sorted([*first, *islice(rows, 38)]) == TEXTS[:50]


@pytest.mark.parametrize("rows", [16, 17, 1])
def test_the_end_of_a_split_is_known_without_network(hub, rows):
    hub.add("owner/short", "default", train=[{"text": text} for text in TEXTS[:rows]])
    short = source(name="owner/short", subset=None, held_out=0.0, buffer_size=1)
    assert list(short.drawn("train", random())) == TEXTS[:rows]
    hub.online = False
    assert list(short.drawn("train", random())) == TEXTS[:rows]


def test_splits_that_the_hub_lacks_are_held_back_from_train_by_their_hash(hub):
    held = source(held_out=0.1, documents_used=1000)
    parts = {"train": list(held.drawn("train", random()))} | {s: held.documents(s) for s in SPLITS[1:]}
    assert sorted(text for part in parts.values() for text in part) == TEXTS
    assert parts["test"] == [text for text in TEXTS if place_of(text) < 0.1]
    assert len(parts["validation"]) == pytest.approx(100, rel=0.4)
    assert source(held_out=0.1, documents_used=20).documents("test") == parts["test"][:20]
    named = source(test="held", held_out=0.1)
    assert named.documents("test") == ["held"]
    assert len(list(named.drawn("train", random()))) == pytest.approx(900, rel=0.05)
    with pytest.raises(UserError, match=r"test=null: this run needs the split; give the hub's name of it"):
        source(held_out=0.0).check("test")


def test_a_branch_is_the_commit_that_it_first_meant(hub):
    first = source().identity("train", None)
    assert (first["revision"], source().facts(), hub.commits) == (SHA, {"revision": SHA}, 1)
    assert source(revision="ab" * 20).identity("train", None)["revision"] == "ab" * 20
    assert hub.commits == 1
    source(revision="ab" * 20).check("train")
    assert hub.asked == ["ab" * 20]


@pytest.mark.parametrize(
    "change",
    [
        {"subset": None}, {"revision": "ab" * 20}, {"column": "id"}, {"held_out": 0.2}, {"train": "held"},
        {"buffer_size": 11}, {"documents_used": 9}, {"test": "held"},
    ],
)  # fmt: skip
def test_whatever_decides_the_text_is_in_its_identity(hub, change):
    identities = [json.dumps(each.identity("train", None)) for each in (source(), source(**change))]
    assert identities[0] != identities[1]


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"column": "txt"}, "column=txt: owner/set has no such column; did you mean 'text'?"),
        ({"column": "id"}, "column=id: in row 1 of owner/set it is a int, no text"),
        ({"subset": "smal"}, "name=owner/set: the split train of smal from document 0 on cannot be read from the hub: "
         "BuilderConfig 'smal' not found. Available: ['small']"),
        ({"train": "trian"}, "cannot be read from the hub: Bad split: trian. Available splits: ['train', 'held']"),
        ({"name": "owner/none"}, "name=owner/none: the hub has no such data set; if it is private or gated, log in"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_named_in_a_line(hub, change, line):
    with pytest.raises(UserError) as error:
        source(**change).check("train")
    assert line in str(error.value)
    assert "\n" not in str(error.value)


def test_without_network_and_mirror_a_line_says_so(hub):
    hub.online = False
    with pytest.raises(
        UserError, match=r"^name=owner/set: its commit is not in .*run once with network, or elsa fetch$"
    ):
        source().check("train")


def test_a_broken_file_of_the_mirror_is_named(hub):
    source().check("train")
    path = next((elsa_hub.streams() / "owner--set" / SHA).rglob("000000.jsonl"))
    path.write_text('"cut')
    with pytest.raises(UserError, match=r"000000\.jsonl: broken .*; delete it to read it from the hub again"):
        source().check("train")


def test_conversations_come_from_the_hub_too(hub, tmp_path):
    rows = [{"messages": chat(letter, "1 2")} for letter in "abcdefgh"]
    hub.add("owner/chats", "default", train_sft=rows, test_sft=rows[:1])
    chats = HubChat(name="owner/chats", train="train_sft", test="test_sft", held_out=0.0, sequence_length=7)
    reader = WindowReader(tokenizer=word_tokenizer(PLAIN), cache=tmp_path / "cache")
    assert [shown(each) for each in reader.evaluation(chats, "test", None)] == ["user a end assistant 1 2 END"]
    found = {shown(each) for each in reader.training(chats, 8, seed=0)}
    assert found == {f"user {letter} end assistant 1 2 END" for letter in "abcdefgh"}
    with pytest.raises(UserError, match=r"column=text: owner/chats has no such column; known: messages"):
        replace(chats, column="text").check("test")
