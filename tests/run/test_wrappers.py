"""A wrapper of several models from the command line: pruned, saved whole, exported, asked, scored, planned."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForImageTextToText

import elsa as package
from elsa.export.quantizer import sparse_layers
from elsa.model.weights import prunable_weights
from tests.run.runs import of
from tests.wrappers import other_model

IDS = torch.arange(32).view(2, 16) + 10


@pytest.fixture
def saved_model(tmp_path, tokenizer):
    """In the place of the random Llama."""
    folder = tmp_path / "a_model"
    other_model("llava").save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "CLIPImageProcessor"}')
    return folder


@torch.no_grad()
def logits(model):
    return model(input_ids=IDS, use_cache=False).logits


def test_a_wrapper_goes_all_the_way(elsa, saved_model, corpus):
    training = ["training.steps=4", "training.batch_size=2", "training.autocast=none"]
    code, _, err = elsa("method=finetuned/wanda", *training, "method.start.calibration_windows=8", "sparsity.ratio=0.8")
    assert code == 0, err
    folder, record = of("wanda+finetuned")
    assert record["sparsity"]["numel"] == 15360
    assert record["coverage"]["unreached"] == []
    kept = "preprocessor_config.json"
    assert (folder / "model" / kept).read_bytes() == (saved_model / kept).read_bytes()

    dense, plain = (
        AutoModelForImageTextToText.from_pretrained(each).eval() for each in (saved_model, folder / "model")
    )
    before, after = dense.state_dict(), plain.state_dict()
    apart = [key for key in before if "language_model" not in key and "lm_head" not in key]
    assert len(apart) == 59
    assert all(torch.equal(before[key], after[key]) for key in apart)
    zeros = sum(int((weight.value_OI == 0).sum()) for weight in prunable_weights(plain).values())
    assert zeros == record["sparsity"]["zeros"]
    ours, _ = package.load(folder)
    assert torch.equal(logits(ours), logits(plain))

    code, out, err = elsa("export", f"checkpoint={folder}", "dtype=float32", model=False)
    assert code == 0, err
    sparse = folder / "exports/sparse-float32"
    assert (sparse / kept).is_file()
    exported = AutoModelForImageTextToText.from_pretrained(sparse).eval()
    assert len(sparse_layers(exported)) == 14
    torch.testing.assert_close(logits(exported), logits(plain), rtol=1e-4, atol=1e-5)
    assert torch.equal(logits(package.load(sparse)[0]), logits(plain))
    asked = [f"checkpoint={sparse}", "repo=a/b", "base_model=a/c", "license=mit", "dry_run=true"]
    code, out, err = elsa("push", *asked, model=False)
    assert code == 0, err
    pushed = Path(out.splitlines()[0].partition(":")[0])
    assert 'AutoModelForImageTextToText.from_pretrained("a/b")' in (pushed / "README.md").read_text()
    assert (pushed / kept).is_file()
    code, out, err = elsa("generate", f"checkpoint={sparse}", "prompt=the cat", "tokens=3", model=False)
    assert code == 0, err
    assert "[dense]" in out
    code, out, err = elsa("evaluate", f"checkpoint={sparse}", *corpus, "eval.windows=4", model=False)
    assert code == 0, err


def test_a_wrapper_is_looked_at_and_planned_before_it_is_loaded(elsa):
    code, out, err = elsa("doctor", "method=wanda")
    assert code == 0, err + out
    code, out, err = elsa("plan", "method=elsa", "training.batch_size=2")
    assert code == 0, err
    assert "15,360" in out


def test_a_wrapper_that_wants_pictures_is_refused(elsa, saved_model):
    (saved_model / "config.json").write_text(json.dumps({"model_type": "blip"}))
    code, _, err = elsa("method=magnitude")
    assert code == 2
    assert "blip does not run on text alone (it wants pixel_values)" in err
