"""`elsa generate` as a user runs it."""

import json
import weakref
from pathlib import Path

import pytest
import torch

from elsa.decoding.generation import Continuation, Sampling
from elsa.files import file_hash
from elsa.model.loading import Pretrained
from elsa.run import generate
from elsa.run.generate import verdict
from tests.run.runs import of


@pytest.fixture
def run_folder(finished):
    finished("method=magnitude", "sparsity.ratio=0.8", "model.begin_with_bos=true")
    return of("magnitude")[0]


def kept(out):
    line = next(line for line in out.splitlines() if line.startswith("kept in "))
    return json.loads(Path(line.removeprefix("kept in ")).read_text())


def test_dense_and_pruned_stand_side_by_side(elsa, run_folder):
    asked = ["prompt=[the cat,on the mat]", "tokens=5"]
    code, out, err = elsa("generate", f"checkpoint={run_folder}", *asked, model=False)
    assert code == 0, err
    found = kept(out)
    assert found["prompts"] == ["the cat", "on the mat"]
    assert found["said"].keys() == {"dense", "pruned"}
    assert found["said"]["dense"] != found["said"]["pruned"]
    for texts in found["said"].values():
        assert all(text["text"] in out for text in texts)
    assert out.count("5 new tokens, cut at 5, repetition") == 4
    assert (found["config"]["run"], found["config"]["dtype"], found["config"]["device"]) == (
        run_folder.name, "float32", "cpu",
    )  # fmt: skip
    assert found["weights_sha256"] == {"model.safetensors": file_hash(run_folder / "model/model.safetensors")}
    assert found["libraries"]["torch"] == torch.__version__
    assert found["ngram"] == 4
    _, again, _ = elsa("generate", f"checkpoint={run_folder}", *asked, model=False)
    assert again == out
    _, elsewhere, _ = elsa("generate", f"checkpoint={run_folder}", *asked, "paths.outputs=elsewhere", model=False)
    assert elsewhere == out.replace("outputs/generations", "elsewhere/generations"), "paths decide nothing"


def test_both_models_are_asked_in_the_same_way_one_at_a_time(elsa, run_folder, monkeypatch):
    asked, models = [], []
    load = Pretrained.load

    def loaded(source, cache, device):
        assert not any(ref() for ref in models)
        model, tokenizer = load(source, cache, device)
        model.itself = [model]  # so that it does not go by itself
        models.append(weakref.ref(model))
        return model, tokenizer

    def spoken(model, tokenizer, ids, how):
        asked.append((model.dtype, tokenizer.decode(ids), how))
        zeros = float((model.model.layers[0].mlp.up_proj.weight == 0).float().mean())
        return Continuation(f"{zeros:.1f}", 0, True, 0.0)

    monkeypatch.setattr(Pretrained, "load", loaded)
    monkeypatch.setattr(generate, "continuation", spoken)
    how = ["tokens=5", "temperature=0.5", "top_p=0.9", "seed=7", "dtype=bfloat16"]
    code, out, err = elsa("generate", f"checkpoint={run_folder}", "prompt=[the cat,a mat]", *how, model=False)
    assert code == 0, err
    sampling = Sampling(tokens=5, temperature=0.5, top_p=0.9, seed=7)
    assert asked == [(torch.bfloat16, f"<b>{text}", sampling) for text in ("the cat", "a mat")] * 2
    assert out.count("0 new tokens, ended by itself") == 4
    assert len(models) == 2
    assert [(name, texts[0]["text"]) for name, texts in kept(out)["said"].items()] == [
        ("dense", "0.0"),
        ("pruned", "0.8"),
    ]
    assert kept(out)["config"]["dtype"] == "bfloat16"


def test_a_broken_model_does_not_command_the_terminal(elsa, saved_model, monkeypatch):
    said = Continuation("\x1b[2Jé\n\tla\r\u202e", 5, False, 0.0)
    monkeypatch.setattr(generate, "continuation", lambda *_: said)
    _, out, _ = elsa("generate", f"checkpoint={saved_model}", "prompt=the cat", "tokens=5", model=False)
    assert "\\x1b[2Jé\n\tla\\r\\u202e\n" in out
    assert kept(out)["said"]["model"][0]["text"] == said.text


@pytest.mark.parametrize("prompt", ["def main():", "don't", "a, b", "42", "null", "${x} = {}", "a\\", "#!", "a=b"])
def test_a_prompt_is_text_whatever_is_in_it(elsa, run_folder, prompt):
    asked = [f"checkpoint={run_folder}", f"prompt={prompt}", "tokens=2", "compare=false"]
    code, out, err = elsa("generate", *asked, model=False)
    assert code == 0, err
    assert kept(out)["prompts"] == [prompt]


def test_an_exported_model_knows_its_run(elsa, run_folder):
    elsa("export", f"checkpoint={run_folder}", "dtype=float32", "to=exported", model=False)
    _, wanted, _ = elsa("generate", f"checkpoint={run_folder}", "prompt=the cat", "tokens=5", model=False)
    code, out, err = elsa("generate", "checkpoint=exported", "prompt=the cat", "tokens=5", model=False)
    assert code == 0, err
    assert kept(out)["said"] == kept(wanted)["said"]


def test_both_models_are_in_the_dtype_of_the_saved_one(elsa, run_folder):
    def dtype(checkpoint):
        code, out, err = elsa("generate", f"checkpoint={checkpoint}", "prompt=the cat", "tokens=5", model=False)
        assert code == 0, err
        return kept(out)["config"]["dtype"]

    elsa("export", f"checkpoint={run_folder}", "dtype=bfloat16", "to=exported", "evaluate=false", model=False)
    assert (dtype(run_folder), dtype("exported")) == ("float32", "bfloat16")
    record = json.loads((run_folder / "result.json").read_text())
    (run_folder / "result.json").write_text(json.dumps(record | {"dtype": "float16"}))
    assert dtype(run_folder) == "float16"


def test_a_folder_without_a_record_speaks_alone(elsa, saved_model):
    code, out, err = elsa("generate", f"checkpoint={saved_model}", "prompt=the cat", "tokens=5", model=False)
    assert code == 0, err
    assert kept(out)["said"].keys() == {"model"}
    assert kept(out)["config"]["run"] is None
    assert "has no record of a run, so its dense model is not known" in out
    alone = elsa("generate", f"checkpoint={saved_model}", "prompt=the cat", "tokens=5", "compare=false", model=False)[1]
    assert "is not known" not in alone


def test_the_verdict_is_from_the_numbers():
    def said(share):
        return [Continuation("", 8, False, share), Continuation("", 8, False, share)]

    repeats = verdict({"dense": said(0.05), "pruned": said(0.6)})
    assert repeats == "pruned repeats itself: 60% of its 4-grams were there before, dense 5%"
    assert verdict({"dense": said(0.05), "pruned": said(0.25)}).startswith("pruned repeats itself: 25%")
    assert verdict({"dense": said(0.6), "pruned": said(0.05)}) == "pruned repeats 5% of its 4-grams, dense 60%"
    assert verdict({"dense": said(0.05), "pruned": said(0.1)}) == "pruned repeats 10% of its 4-grams, dense 5%"
    assert verdict({"model": said(0.6)}) == "model repeats 60% of its 4-grams"


def test_a_text_that_is_too_short_says_nothing_of_repetition():
    short, longer = Continuation("", 3, True, 0.0), Continuation("", 4, True, 0.5)
    too_little = "pruned says too little to repeat itself, less than 4 tokens"
    assert verdict({"dense": [longer], "pruned": [short]}) == too_little
    assert verdict({"dense": [short], "pruned": [longer, short]}) == "pruned repeats 50% of its 4-grams"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("tokens=0", "tokens=0: at least 1"),
        ("temperature=-1.0", "temperature=-1.0: from 0 up"),
        ("top_p=2.0", "top_p=2.0: above 0, at most 1"),
        ("prompt=[]", "prompt=[]: at least one text"),
        ("seed=-1", "seed=-1: a whole number from 0 up"),
        ("device=tpu", "device=tpu: known here: auto, cpu"),
        ("chat=true", "chat=true: this tokenizer has no chat template"),
        ("tokens=62", "tokens=62: with the 3 of the prompt at most 64 for this model"),
        ("checkpoint=nowhere", "checkpoint=nowhere: no such folder"),
        ("dtype=int8", "dtype=int8"),
    ],
)
def test_a_mistake_is_one_line(elsa, run_folder, argument, said):
    given = {"checkpoint": str(run_folder), "prompt": "the cat"} | dict([argument.split("=", 1)])
    code, _, err = elsa("generate", *(f"{key}={value}" for key, value in given.items()), model=False)
    lines = [line for line in err.splitlines() if line.startswith("elsa: ")]
    assert (code, len(lines)) == (2, 1)
    assert said in lines[0]
    assert not Path("outputs/generations").exists()


def test_a_dense_model_that_has_gone_is_told(elsa, run_folder, saved_model):
    saved_model.rename(saved_model.parent / "elsewhere")
    code, _, err = elsa("generate", f"checkpoint={run_folder}", "prompt=the cat", model=False)
    assert code == 2
    assert "no such folder" in err
    assert "compare=false asks the pruned one alone" in err
    code, out, err = elsa(
        "generate", f"checkpoint={run_folder}", "prompt=the cat", "tokens=5", "compare=false", model=False
    )
    assert code == 0, err
    assert kept(out)["said"].keys() == {"pruned"}


def test_a_dense_model_that_cannot_be_loaded_is_told(elsa, run_folder, saved_model):
    (saved_model / "model.safetensors").write_bytes(b"no weights")
    code, _, err = elsa("generate", f"checkpoint={run_folder}", "prompt=the cat", "tokens=5", model=False)
    assert code == 2
    assert "compare=true: the dense model of its run is not there (model=" in err
    assert not Path("outputs/generations").exists()


def test_a_prompt_of_nothing_is_one_line(elsa, saved_model):
    code, _, err = elsa("generate", f"checkpoint={saved_model}", "prompt=''", model=False)
    assert (code, err.splitlines()[-1]) == (2, "elsa: prompt='': it has no tokens")
    assert not Path("outputs/generations").exists()


def test_the_longest_that_fits_is_taken(elsa, saved_model):
    code, out, err = elsa("generate", f"checkpoint={saved_model}", "prompt=the cat", "tokens=62", model=False)
    assert code == 0, err
    assert "62 new tokens" in out


def test_folders_that_cannot_be_written_are_refused_before_a_word(elsa, saved_model):
    Path("taken").touch()
    asked = ["prompt=the cat", "tokens=5", "paths.outputs=taken"]
    code, out, err = elsa("generate", f"checkpoint={saved_model}", *asked, model=False)
    assert (code, out) == (2, "")
    assert "paths.outputs=taken" in err


def test_a_mirror_stands_for_the_hub(elsa, saved_model, monkeypatch):
    mirrors = []
    monkeypatch.setattr("elsa.hub.use_mirror", mirrors.append)
    elsa("generate", f"checkpoint={saved_model}", "prompt=the cat", "tokens=5", "paths.mirror=a_mirror", model=False)
    assert mirrors == ["a_mirror"]
