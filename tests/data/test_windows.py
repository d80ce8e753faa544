import copy
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, normalizers
from transformers import PreTrainedTokenizerFast

from elsa.data.sources import Text, Tokens
from elsa.data.windows import WindowReader, windows_hash
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
    assert torch.equal(reader.evaluation(source, "test", 3), windows[:3])


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


def test_each_split_has_its_own_stored_token_ids(tmp_path, reader):
    ids = {split: torch.arange(40).view(4, 10) + 100 * i for i, split in enumerate(("train", "validation", "test"))}
    save_file({f"{split}_ids": tensor for split, tensor in ids.items()}, tmp_path / "ids.safetensors")
    stored = Tokens(path=str(tmp_path / "ids.safetensors"), **{split: f"{split}_ids" for split in ids})
    assert torch.equal(reader.training(stored, 4, seed=0), ids["train"].int())
    for split, tensor in ids.items():
        assert torch.equal(reader.evaluation(stored, split, None), tensor.int())
