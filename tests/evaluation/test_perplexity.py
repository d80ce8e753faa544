import json
import math

import pytest
import torch
from safetensors.torch import save_file

from elsa.data.sources import Tokens
from elsa.data.windows import WindowReader, windows_hash
from elsa.errors import UserError
from elsa.evaluation.base import Subject
from elsa.evaluation.perplexity import Perplexity, mean_loss
from elsa.record.record import read_record, views, write_record
from tests.conftest import CONFIGS, random_model
from tests.record.records import record


@pytest.fixture
def source(tmp_path, windows):
    save_file({"held": windows}, tmp_path / "ids.safetensors")
    return Tokens(path=str(tmp_path / "ids.safetensors"), train="held", validation="held", test="held")


def evaluate(model, source, tmp_path, **changes):
    settings = {"sets": {"ids": source}, "split": "test", "windows": None, "formula": "standard", "autocast": "none"}
    perplexity = Perplexity(**settings | changes)
    prepared = perplexity.prepare(WindowReader(tokenizer=None, cache=tmp_path))
    subject = Subject(model=model, tokenizer=None, cache=tmp_path)
    return perplexity.evaluate(subject, prepared)["perplexity"]["ids"]


def test_perplexity_is_exp_of_the_loss_over_scored_targets(model, windows, source, tmp_path):
    with torch.no_grad():
        losses = [model(row[None].long(), labels=row[None].long()).loss.item() for row in windows]
    score = evaluate(model, source, tmp_path)
    assert score["perplexity"] == pytest.approx(math.exp(sum(losses) / len(losses)), rel=1e-5)
    assert (score["windows"], score["length"], score["targets"]) == (24, 16, 24 * 15)


def test_of_conversations_answers_alone_are_scored(llama, windows, tmp_path):
    context = windows % 3 == 0
    marked, labels = torch.where(context, -1 - windows, windows), torch.where(context, -100, windows)
    with torch.no_grad():
        whole = llama(windows.long(), labels=labels.long()).loss.item()
    evaluation = Perplexity(sets={"a": None}, windows=None)
    subject = Subject(model=llama, tokenizer=None, cache=tmp_path)
    score = evaluation.evaluate(subject, {"a": marked})["perplexity"]["a"]
    assert score["loss"] == pytest.approx(whole, rel=1e-5)
    assert score["targets"] == int((labels[:, 1:] >= 0).sum()) < 24 * 15


def test_a_model_in_training_mode_is_scored_without_dropout(windows, monkeypatch):
    monkeypatch.setattr(CONFIGS["opt"], "dropout", 0.5)
    assert mean_loss(random_model("opt").train(), windows) == mean_loss(random_model("opt"), windows)


class Certain(torch.nn.Module):
    """Puts all on one word, and is wrong."""

    def __init__(self, logit):
        super().__init__()
        self.logit = torch.nn.Parameter(torch.tensor(logit))

    def forward(self, input_ids, use_cache):
        logits = torch.zeros(*input_ids.shape, 4)
        logits[..., 0] = self.logit
        return type("Output", (), {"logits": logits})


def scores_of(logit, tmp_path):
    evaluation = Perplexity(sets={"a": None}, split="test", windows=2, formula="standard", autocast="none")
    subject = Subject(model=Certain(logit), tokenizer=None, cache=tmp_path)
    return evaluation.evaluate(subject, {"a": torch.ones(2, 8, dtype=torch.int32)})["perplexity"]["a"]


def test_a_loss_too_large_for_a_perplexity_is_infinite_and_its_record_is_json(tmp_path):
    score = scores_of(5000.0, tmp_path)
    assert (score["perplexity"], score["loss"]) == (math.inf, pytest.approx(5000.0))
    write_record(tmp_path, record(evaluations=[{"key": "k", "config": {}, "perplexity": {"a": score}}]))
    json.loads((tmp_path / "result.json").read_text(), parse_constant=lambda word: pytest.fail(f"{word} is no JSON"))
    (view,) = views(read_record(tmp_path))
    assert view["perplexity"]["a"] == score


def test_logits_that_are_no_numbers_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"eval\.sets\.a: the model's loss is nan: its logits hold NaN"):
        scores_of(math.nan, tmp_path)


@pytest.mark.parametrize("split", ["train", "validation", "test"])
def test_the_asked_split_is_scored(llama, windows, tmp_path, split):
    parts = dict(zip(("train", "validation", "test"), windows.split(8), strict=True))
    file = tmp_path / "ids.safetensors"
    save_file({f"{name}_ids": part.clone() for name, part in parts.items()}, file)
    ids = Tokens(path=str(file), train="train_ids", validation="validation_ids", test="test_ids")
    score = evaluate(llama, ids, tmp_path, split=split)
    assert score["perplexity"] == pytest.approx(math.exp(mean_loss(llama, parts[split])))
    assert (score["split"], score["data_sha256"]) == (split, windows_hash(parts[split]))


def test_the_official_formula_divides_by_the_length(llama, source, tmp_path):
    standard, official = (evaluate(llama, source, tmp_path, formula=name) for name in ("standard", "official"))
    assert official["perplexity"] == pytest.approx(standard["perplexity"] ** (15 / 16))
    assert official["formula"] == "official"


def test_only_the_wanted_windows_are_scored(llama, windows, source, tmp_path):
    first = evaluate(llama, source, tmp_path, windows=5, draw="first")
    assert first["perplexity"] == pytest.approx(math.exp(mean_loss(llama, windows[:5])))
    assert (first["draw"], "draw_seed" in first) == ("first", False)
    spread = evaluate(llama, source, tmp_path, windows=5, draw_seed=3)
    assert spread["windows"] == 5
    assert spread["data_sha256"] not in (
        first["data_sha256"],
        evaluate(llama, source, tmp_path, windows=5)["data_sha256"],
    )
    assert (spread["draw"], spread["draw_seed"]) == ("even", 3)


def test_how_windows_are_drawn_is_part_of_the_question(source, tmp_path):
    def asked(**settings):
        return Perplexity(sets={"ids": source}, **settings).identity(tmp_path)

    assert len({str(asked(windows=5, **draw)) for draw in ({}, {"draw": "first"}, {"draw_seed": 1})}) == 3
    assert asked(windows=None) == asked(windows=None, draw="first") == asked(windows=None, draw_seed=1)


def test_bf16_autocast_is_close_and_said(llama, source, tmp_path):
    exact, low = (evaluate(llama, source, tmp_path, autocast=name) for name in ("none", "bfloat16"))
    assert low["perplexity"] == pytest.approx(exact["perplexity"], rel=0.02)
    assert low["perplexity"] != exact["perplexity"]
    assert low["autocast"] == "bfloat16"


@pytest.mark.parametrize(
    "wrong",
    [{"formula": "usual"}, {"split": "held_out"}, {"windows": 0}, {"sets": {}}, {"draw": "random"}, {"draw_seed": -1}],
)
def test_wrong_settings_are_refused(source, wrong):
    settings = {"sets": {"ids": source}, "split": "test", "windows": None, "formula": "standard", "autocast": "none"}
    with pytest.raises(UserError, match=next(iter(wrong))):
        Perplexity(**settings | wrong)
