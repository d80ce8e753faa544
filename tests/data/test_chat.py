"""Conversations become windows whose answers alone are scored; every expected window is written out by hand."""

import json
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from elsa.data import windows as windows_module
from elsa.data.chat import Chat
from elsa.data.scored import as_context, next_tokens, scored, token_ids
from elsa.data.windows import WindowReader
from elsa.errors import UserError
from tests.data.chats import LAST_ALONE, MARKED, PLAIN, WORDS, chat, shown, word_tokenizer, write_chats

BOTH = pytest.mark.parametrize("template", [PLAIN, MARKED], ids=["by prefixes", "by generation marks"])


@pytest.fixture
def windows(tmp_path):
    """All windows of conversations, as words."""

    def cut(template, length, *chats, bos=False, **settings):
        windows_module._say.cache_clear()
        source = Chat(sequence_length=length, test=[write_chats(tmp_path / "chats.jsonl", *chats)], **settings)
        reader = WindowReader(tokenizer=word_tokenizer(template), cache=tmp_path / "cache", begin_with_bos=bos)
        return [shown(window) for window in reader.evaluation(source, "test", None)]

    return cut


def test_a_token_that_is_context_is_read_and_no_target():
    ids = torch.tensor([[5, 0, 7, 3]])
    marked = torch.where(torch.tensor([[True, False, False, True]]), ids, as_context(ids))
    assert marked.tolist() == [[5, -1, -8, 3]]
    assert torch.equal(token_ids(marked), ids)
    assert next_tokens(marked).tolist() == [-100, -100, 3]
    assert (scored(marked), scored(ids)) == (1, 3)
    assert next_tokens(ids).tolist() == [0, 7, 3]


@BOTH
def test_answers_alone_are_scored_to_the_end_of_the_turn(windows, template):
    found = windows(template, 14, chat("a b", "1 2", "c", "3"))
    assert found == ["user a b end assistant 1 2 END user c end assistant 3 END"]


@BOTH
def test_conversations_stay_whole_and_the_next_one_fills_what_is_left_as_context(windows, template):
    found = windows(template, 10, chat("a", "1"), chat("b b", "2 2"), chat("c", "3"))
    assert found == [
        "user a end assistant 1 END user b b end",
        "user b b end assistant 2 2 END user c",
        "user c end assistant 3 END user a end assistant",
    ]


def test_what_fills_the_last_window_is_context_too(windows):
    assert windows(PLAIN, 13, chat("a", "1")) == ["user a end assistant 1 END user a end assistant 1 end user"]


@BOTH
def test_long_conversations_are_cut_and_those_that_lose_their_answer_dropped(windows, template, caplog):
    caplog.set_level(logging.INFO, logger="elsa")
    long, lost, silent = chat("a", "1 2 3 4 5 6"), chat("b b b b b b", "7"), chat("c")
    found = windows(template, 7, long, lost, silent, chat("d d", "8"), most_cut=0.5)
    assert found == ["user a end assistant 1 2 3", "user d d end assistant 8 END"]
    said = "the test split: 4 conversations, 2 cut at 7 tokens, 2 without an answer in these, dropped"
    assert [(each.levelname, each.message) for each in caplog.records] == [("INFO", said)]
    caplog.clear()
    windows(template, 7, long, lost, silent, chat("d d", "8"), most_cut=0.49)
    assert [each.levelname for each in caplog.records] == ["WARNING"]
    assert caplog.messages[0] == f"{said}; more are cut than data.most_cut=0.49: raise data.sequence_length"


def test_what_lost_its_answer_is_kept_as_context_or_refused(windows):
    lost = chat("b b b b", "7")
    found = windows(PLAIN, 6, lost, chat("a", "1"), lost="keep")
    assert found == ["user b b b b end", "user a end assistant 1 END"]
    with pytest.raises(UserError, match=r"'b b b b' has no answer in the first 6 of its 9 tokens"):
        windows(PLAIN, 6, chat("a", "1"), lost, lost="refuse")


@pytest.mark.parametrize("lost", ["drop", "keep"])
def test_if_nothing_is_left_the_run_is_refused(windows, lost):
    wanted = r"data\.sequence_length=4: none of the 2 conversations of the test split has an answer .* within a window"
    with pytest.raises(UserError, match=wanted):
        windows(PLAIN, 4, chat("a b", "1"), chat("a b c", "1"), lost=lost)


def test_drawn_windows_without_any_answer_are_refused(tmp_path):
    chats = write_chats(tmp_path / "a.jsonl", chat("b b b b"), chat("a", "1"))
    source = Chat(sequence_length=6, lost="keep", test=[chats])
    reader = WindowReader(tokenizer=word_tokenizer(PLAIN), cache=tmp_path / "cache")
    with pytest.raises(UserError, match="data: no answer is in the 1 windows of the test split"):
        reader.evaluation(source, "test", 1, "first")


@pytest.mark.skipif(transformers.__version__.startswith("5.0."), reason="marks no answer that is the whole template")
def test_an_answer_that_begins_a_window_is_no_target_for_what_is_before(windows):
    answer_first = "{% generation %}{{ messages[-1].content }}{% endgeneration %}"
    assert windows(answer_first, 6, chat("a", "1 2 3"), chat("b", "4 5 6")) == ["1 2 3 4 5 6"]
    marked = windows(answer_first.replace("{{", "{{ 'user ' + "), 4, chat("a", "1 2 3"))
    assert marked == ["user 1 2 3"]


def test_a_window_begins_with_bos_once(windows):
    assert windows(PLAIN, 7, chat("a", "1"), bos=True) == ["<b> user a end assistant 1 END"]
    with_its_own = "{{ bos_token + ' ' }}" + PLAIN
    assert windows(with_its_own, 7, chat("a", "1"), bos=True) == ["<b> user a end assistant 1 END"]


def test_no_chat_template_and_one_that_changes_what_it_said_are_refused(windows):
    with pytest.raises(UserError, match="the model's tokenizer has no chat template"):
        windows(None, 8, chat("a", "1"))
    assert windows(LAST_ALONE, 7, chat("a", "1")) == ["user a end ASSISTANT ? 1 END"]
    with pytest.raises(UserError, match=r"renders message 2 of the conversation that begins 'a' otherwise after its "):
        windows(LAST_ALONE, 20, chat("a", "1", "b", "2"))


def test_what_a_template_refuses_is_named(windows):
    picky = "{% if messages[0].role == 'user' %}{{ raise_exception('no user first') }}{% endif %}"
    with pytest.raises(UserError, match=r"does not take the conversation that begins 'a': no user first"):
        windows(picky, 8, chat("a", "1"))


def test_the_day_is_no_part_of_a_window(windows):
    dated = "{{ strftime_now('%d %b %Y') + ' ' }}" + PLAIN
    assert windows(dated, 9, chat("a", "1")) == ["26 jul 2024 user a end assistant 1 END"]


@pytest.mark.parametrize(
    ("row", "wrong"),
    [
        ('{"messages": "a"}', "`messages` is a str; a list of messages with role and content is wanted"),
        ('{"messages": []}', "`messages` is a list; a list of messages with role and content"),
        ('{"messages": [{"role": "user", "content": null}]}', "has no role and content, each a text, in message 1"),
        ('{"messages": [{"role": "user", "content": "a"}, "b"]}', "in message 2"),
        ('{"conversations": []}', "no `messages`; it holds conversations"),
    ],
)
def test_rows_that_are_no_conversations_are_named(tmp_path, row, wrong):
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": chat("a", "1")}) + "\n" + row + "\n")
    with pytest.raises(UserError, match=rf"a\.jsonl:2: .*{wrong}"):
        Chat(train=[str(tmp_path / "a.jsonl")]).documents("train")


def test_plain_text_is_no_conversation(tmp_path):
    (tmp_path / "a.txt").write_text("words")
    with pytest.raises(UserError, match=r"a\.txt: its plain text is a str; a list of messages"):
        Chat(train=[str(tmp_path / "a.txt")]).documents("train")


def test_conversations_are_held_out_whole(tmp_path):
    chats = [chat(f"{i}", "1") for i in range(60)]
    source = Chat(train=[write_chats(tmp_path / "a.jsonl", *chats)], held_out=0.2)
    parts = [source.documents(split) for split in ("train", "validation", "test")]
    assert all(len(part) >= 5 for part in parts)
    assert sorted((each for part in parts for each in part), key=chats.index) == chats


def test_training_windows_are_of_whole_conversations_in_as_many_epochs_as_it_takes(tmp_path):
    chats = [chat(letter, f"{number} {number}") for number, letter in enumerate("abcde", 1)]
    source = Chat(sequence_length=8, train=[write_chats(tmp_path / "a.jsonl", *chats)])
    reader = WindowReader(tokenizer=word_tokenizer(PLAIN), cache=tmp_path / "cache")
    found = [shown(window) for window in reader.training(source, 12, seed=0)]
    whole = {f"user {letter} end assistant {n} {n} END user" for n, letter in enumerate("abcde", 1)}
    assert len(found) == 12
    assert set(found) == whole
    assert [shown(window) for window in reader.training(source, 12, seed=1)] != found
    assert reader.counts == {"train[12]": {"conversations": 5, "cut": 0, "without_answer": 0}}


def test_there_are_as_many_windows_as_asked_for_where_each_begins_with_bos(tmp_path):
    source = Chat(sequence_length=7, train=[write_chats(tmp_path / "a.jsonl", chat("a", "1"))])
    reader = WindowReader(tokenizer=word_tokenizer(PLAIN), cache=tmp_path / "cache", begin_with_bos=True)
    assert [shown(window) for window in reader.training(source, 10, 0)] == ["<b> user a end assistant 1 END"] * 10


def test_counts_come_from_the_cache_too(tmp_path):
    source = Chat(sequence_length=6, train=[write_chats(tmp_path / "a.jsonl", chat("a", "1 2"), chat("b", "2"))])
    counts = []
    for _ in range(2):
        reader = WindowReader(tokenizer=word_tokenizer(PLAIN), cache=tmp_path / "cache")
        reader.training(source, 2, seed=0)
        counts.append(reader.counts)
    assert counts == [{"train[2]": {"conversations": 2, "cut": 1, "without_answer": 0}}] * 2
    assert len(list((tmp_path / "cache/windows").iterdir())) == 1


def test_the_cache_knows_the_template_and_what_it_fills_in(tmp_path):
    source = Chat(sequence_length=6, test=[write_chats(tmp_path / "a.jsonl", chat("a", "1"))])
    tokenizers = [word_tokenizer(PLAIN), word_tokenizer(PLAIN.replace("' end '", "' ? '")), word_tokenizer(PLAIN)]
    tokenizers[2].pad_token = "?"
    for tokenizer in tokenizers:
        WindowReader(tokenizer=tokenizer, cache=tmp_path / "cache").evaluation(source, "test", None)
    WindowReader(tokenizer=tokenizers[0], cache=tmp_path / "cache").evaluation(
        replace(source, lost="keep"), "test", None
    )
    assert len(list((tmp_path / "cache/windows").iterdir())) == 4


def test_the_models_own_tokenizer_keeps_its_state(tmp_path):
    tokenizer = word_tokenizer(PLAIN)
    tokenizer.backend_tokenizer.enable_truncation(3)
    source = Chat(sequence_length=6, test=[write_chats(tmp_path / "a.jsonl", chat("a", "1"))])
    found = WindowReader(tokenizer=tokenizer, cache=tmp_path / "cache").evaluation(source, "test", None)
    assert shown(found[0]) == "user a end assistant 1 END"
    assert tokenizer.backend_tokenizer.truncation["max_length"] == 3


def test_every_scored_token_is_an_answers(tmp_path):
    random = np.random.default_rng(0)

    def said(turn):
        return " ".join(random.choice([*("123" if turn % 2 else "abc")], random.integers(1, 9)))

    chats = [chat(*map(said, range(random.integers(1, 7)))) for _ in range(200)]
    source = Chat(sequence_length=16, test=[write_chats(tmp_path / "a.jsonl", *chats)])
    windows_NL = WindowReader(tokenizer=word_tokenizer(PLAIN), cache=tmp_path / "c").evaluation(source, "test", None)
    answers = {WORDS.index(word) for word in (*"123", "end")}
    asked = {WORDS.index(word) for word in (*"abc", "user", "assistant")}
    assert set(windows_NL[windows_NL >= 0].tolist()) == answers
    assert asked <= set(token_ids(windows_NL).unique().tolist())
    expected = 0
    for each in chats:
        words, marks = [], []
        for message in each:
            body = [*message["content"].split(), "end"]
            words += [message["role"], *body]
            marks += [False, *(message["role"] == "assistant" for _ in body)]
        expected += sum(marks[:16])
    assert int((windows_NL >= 0).sum()) == expected
