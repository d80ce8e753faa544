import copy
import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from elsa.data.sources import Text, Tokens
from elsa.data.windows import WindowReader, spread, windows_hash
from elsa.errors import UserError


@pytest.fixture
def source(tmp_path):
    for number in range(30):
        (tmp_path / f"{number:02}.txt").write_text(f"document {number} " * (number + 1))
    return Text(sequence_length=10, train=[str(tmp_path)], validation=[], test=[str(tmp_path)], join=None)


@pytest.fixture
def reader(tokenizer, tmp_path):
    return WindowReader(tokenizer=tokenizer, cache=tmp_path.parent / f"{tmp_path.name}-cache")


def test_evaluation_windows_are_the_packed_text_in_order(source, reader, tokenizer):
    stream = []
    for document in source.documents("test"):
        stream += [*tokenizer(document)["input_ids"], tokenizer.eos_token_id]
    windows = reader.evaluation(source, "test", None)
    assert windows.shape == (len(stream) // 10, 10)
    assert windows.flatten().tolist() == stream[: windows.numel()]
    assert torch.equal(reader.evaluation(source, "test", 3, "first"), windows[:3])


def test_evaluation_windows_are_spread_evenly_over_the_split(source, reader):
    every = reader.evaluation(source, "test", None)
    drawn = reader.evaluation(source, "test", 7)
    parts = [every[len(every) * i // 7 : len(every) * (i + 1) // 7].tolist() for i in range(7)]
    assert all(row in part for row, part in zip(drawn.tolist(), parts, strict=True))
    assert torch.equal(reader.evaluation(source, "test", 7), drawn)
    assert not torch.equal(reader.evaluation(source, "test", 7, draw_seed=1), drawn)
    assert torch.equal(reader.evaluation(source, "test", len(every) + 1), every)


def test_every_window_is_as_likely_as_any_other():
    counts = torch.zeros(10)
    for seed in range(3000):
        counts[spread(10, 4, seed)] += 1
    parts = torch.tensor([2, 2, 3, 3, 3, 2, 2, 3, 3, 3])  # sizes of the four parts that an index lies in
    assert counts.tolist() == pytest.approx((3000 / parts).tolist(), rel=0.1)


@pytest.mark.parametrize(
    "damage", [lambda data: data[:90], lambda data: b"junk", lambda data: b"", lambda data: data[:-4] + b"\1\0\0\0"]
)
def test_broken_windows_in_the_cache_are_made_anew(source, reader, damage, caplog):
    expected = reader.training(source, 20, seed=0).clone()
    path = next(reader.cache.rglob("*.safetensors"))
    path.write_bytes(damage(path.read_bytes()))
    with caplog.at_level("INFO", logger="elsa"):
        assert torch.equal(reader.training(source, 20, seed=0), expected)
    assert "broken, made anew" in caplog.text


def test_a_folder_in_the_place_of_windows_is_named(source, reader):
    reader.training(source, 20, seed=0)
    path = next(reader.cache.rglob("*.safetensors"))
    path.unlink()
    path.mkdir()
    with pytest.raises(UserError, match=r"paths\.cache=.*a file of token windows is wanted"):
        reader.training(source, 20, seed=0)


def test_tokens_that_the_model_does_not_know_are_refused(source, reader, tokenizer, tmp_path):
    largest = int(reader.evaluation(source, "test", None).max())
    replace(reader, vocabulary=largest + 1).evaluation(source, "test", None)
    with pytest.raises(UserError, match=rf"test split has the token {largest} \(.*holds 0 to {largest - 1};"):
        replace(reader, vocabulary=largest).evaluation(source, "test", None)
    with pytest.raises(UserError, match="train split has the token"):
        replace(reader, vocabulary=largest).training(source, 100, seed=0)


def test_begin_with_bos_needs_a_bos(tokenizer, tmp_path):
    without = PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, eos_token="<e>")
    with pytest.raises(UserError, match=r"model\.begin_with_bos=true: .*no BOS"):
        WindowReader(tokenizer=without, cache=tmp_path, begin_with_bos=True)


def test_a_short_text_is_repeated_as_often_as_is_said(tmp_path, reader, caplog):
    (tmp_path / "short.txt").write_text("a b c d e f g")
    short = Text(sequence_length=4, train=[str(tmp_path / "short.txt")])
    with caplog.at_level("INFO", logger="elsa"):
        windows = reader.training(short, 50_000, seed=0)
    tokens = len(set(map(tuple, reader.evaluation(short, "train", None).tolist())))
    assert windows.shape == (50_000, 4)
    assert tokens >= 1
    assert re.search(r"train split has (\d+) tokens, the budget takes 200000: it repeats [\d.]+ times", caplog.text)


def test_an_epoch_of_training_windows_is_the_packed_text_without_replacement(source, reader):
    full = reader.evaluation(source, "test", None)
    windows = reader.training(source, len(full), seed=0)
    counts = [tensor.flatten().bincount(minlength=300) for tensor in (windows, full)]
    assert int((counts[0] - counts[1]).abs().sum()) <= 20  # but for the last, partial window


def test_more_windows_than_text_start_another_epoch_in_another_order(source, reader):
    full = len(reader.evaluation(source, "test", None))
    one, three = (reader.training(source, epochs * full, seed=0) for epochs in (1, 3))
    assert len(three) == 3 * full
    distinct = [len({tuple(row) for row in windows.tolist()}) for windows in (one, three)]
    assert distinct[1] > 1.3 * distinct[0]  # documents meet other neighbours, so windows differ


@pytest.fixture
def three_letters(tmp_path):
    """A corpus whose splits share no letter."""
    for split, letter in {"train": "x", "validation": "y", "test": "z"}.items():
        (tmp_path / f"{split}.txt").write_text(letter * 300)
    splits = {split: [str(tmp_path / f"{split}.txt")] for split in ("train", "validation", "test")}
    return Text(sequence_length=10, join=None, **splits)


def letters(tokenizer, windows):
    return set(tokenizer.decode(windows.flatten(), skip_special_tokens=True))


def test_training_windows_come_from_the_train_split(three_letters, reader, tokenizer):
    assert letters(tokenizer, reader.training(three_letters, 40, seed=0)) == {"x"}


def test_evaluation_windows_come_from_the_asked_split_and_the_cache_knows_it(three_letters, reader, tokenizer):
    for split, letter in {"train": "x", "validation": "y", "test": "z"}.items():
        assert letters(tokenizer, reader.evaluation(three_letters, split, None)) == {letter}


def test_the_seed_decides_the_windows(source, reader):
    first = windows_hash(reader.training(source, 20, seed=0))
    assert windows_hash(reader.training(source, 20, seed=0)) == first
    assert windows_hash(reader.training(source, 20, seed=1)) != first


def test_the_cache_is_written_once_and_knows_the_seed(source, reader):
    def files():
        return {path: path.stat().st_mtime_ns for path in (reader.cache / "windows").iterdir()}

    reader.training(source, 20, seed=0)
    before = files()
    reader.training(source, 20, seed=0)
    assert files() == before
    reader.training(source, 20, seed=1)
    assert len(files()) == 2


@pytest.mark.parametrize("state", ["truncation", "padding"])
def test_windows_do_not_depend_on_what_a_tokenizer_was_saved_with(source, tokenizer, tmp_path, state):
    expected = WindowReader(tokenizer=tokenizer, cache=tmp_path / "a").training(source, 6, seed=0)
    saved = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(tokenizer.backend_tokenizer.to_str()), eos_token="<e>", bos_token="<b>"
    )
    if state == "truncation":
        saved.backend_tokenizer.enable_truncation(5)
    else:
        saved.backend_tokenizer.enable_padding(pad_id=3)
    found = WindowReader(tokenizer=saved, cache=tmp_path / "b").training(source, 6, seed=0)
    assert torch.equal(found, expected)
    with_its_state = saved.backend_tokenizer.to_str()
    assert ('"truncation":null' in with_its_state) == (state == "padding"), "the model's own tokenizer keeps its state"


def test_the_cache_knows_the_tokenizer_and_the_length(source, reader, tokenizer):
    reader.evaluation(source, "test", 4)
    assert reader.evaluation(replace(source, sequence_length=7), "test", 4).shape == (4, 7)
    other = copy.deepcopy(tokenizer)
    other.backend_tokenizer.normalizer = normalizers.Replace("document", "cat")
    windows = WindowReader(tokenizer=other, cache=reader.cache).evaluation(source, "test", 4)
    assert "cat" in tokenizer.decode(windows.flatten())


def test_each_window_can_begin_with_bos(source, reader, tokenizer):
    with_bos = WindowReader(tokenizer=tokenizer, cache=reader.cache, begin_with_bos=True)
    windows = with_bos.training(source, 12, seed=0)
    assert windows.shape == (12, 10)
    assert windows[:, 0].tolist() == [tokenizer.bos_token_id] * 12
    assert windows_hash(windows) != windows_hash(reader.training(source, 12, seed=0))


def test_text_shorter_than_a_window_is_refused(tmp_path, reader):
    (tmp_path / "short.txt").write_text("hi")
    short = Text(sequence_length=100, train=[str(tmp_path / "short.txt")], validation=[], test=[], join=None)
    with pytest.raises(UserError, match=r"data\.sequence_length=100: the train split has only"):
        reader.evaluation(short, "train", None)


def test_stored_token_ids_are_taken_as_they_are(tmp_path, reader):
    ids = torch.arange(40).view(4, 10)
    save_file({"calibration": ids}, tmp_path / "ids.safetensors")
    stored = Tokens(path=str(tmp_path / "ids.safetensors"), train="calibration", validation="x", test="y")
    assert torch.equal(reader.training(stored, 3, seed=5), ids[:3].int())
    with pytest.raises(UserError, match="holds 4 windows, this run needs 5"):
        reader.training(stored, 5, seed=0)
    with pytest.raises(UserError, match=r"data\.test=y: .*holds calibration"):
        reader.evaluation(stored, "test", None)


@pytest.mark.parametrize(
    ("ids", "wrong"),
    [
        (torch.arange(40), r"shape is \[40\]"),
        (torch.zeros(3, 1, dtype=torch.int64), r"shape is \[3, 1\]"),
        (torch.zeros(0, 10, dtype=torch.int64), r"shape is \[0, 10\]"),
        (torch.tensor(3), r"shape is \[\]"),
        (torch.zeros(3, 10), "torch.float32; integer token ids"),
        (torch.zeros(3, 10, dtype=torch.bool), "torch.bool; integer token ids"),
        (torch.full((3, 10), -1), "token ids are from 0 up"),
        (torch.full((3, 10), 2**40), "token ids are from 0 up"),
    ],
)
def test_what_are_no_token_ids_is_refused(tmp_path, reader, ids, wrong):
    save_file({"test": ids}, tmp_path / "ids.safetensors")
    with pytest.raises(UserError, match=wrong):
        reader.evaluation(Tokens(path=str(tmp_path / "ids.safetensors")), "test", None)


def test_a_file_that_is_no_safetensors_is_refused(tmp_path):
    (tmp_path / "ids.safetensors").write_bytes(b"no tensors at all")
    with pytest.raises(UserError, match=r"path=.*no whole safetensors file"):
        Tokens(path=str(tmp_path / "ids.safetensors")).check("test")


def test_each_split_has_its_own_stored_token_ids(tmp_path, reader):
    ids = {split: torch.arange(40).view(4, 10) + 100 * i for i, split in enumerate(("train", "validation", "test"))}
    save_file({f"{split}_ids": tensor for split, tensor in ids.items()}, tmp_path / "ids.safetensors")
    stored = Tokens(path=str(tmp_path / "ids.safetensors"), **{split: f"{split}_ids" for split in ids})
    assert torch.equal(reader.training(stored, 4, seed=0), ids["train"].int())
    for split, tensor in ids.items():
        assert torch.equal(reader.evaluation(stored, split, None), tensor.int())
