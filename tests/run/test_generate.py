"""`elsa generate` as a user runs it."""

import json
from pathlib import Path

import pytest

from elsa.decoding.generation import Continuation
from elsa.run.generate import verdict
from tests.run.runs import of


@pytest.fixture
def run_folder(elsa):
    code, _, err = elsa("method=magnitude", "sparsity.ratio=0.8")
    assert code == 0, err
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
    assert out.count("5 tokens, cut at 5, repetition") == 4
    _, again, _ = elsa("generate", f"checkpoint={run_folder}", *asked, model=False)
    assert again == out


def test_an_exported_model_knows_its_run(elsa, run_folder):
    elsa("export", f"checkpoint={run_folder}", "dtype=float32", "to=exported", model=False)
    _, wanted, _ = elsa("generate", f"checkpoint={run_folder}", "prompt=the cat", "tokens=5", model=False)
    code, out, err = elsa("generate", "checkpoint=exported", "prompt=the cat", "tokens=5", model=False)
    assert code == 0, err
    assert kept(out)["said"] == kept(wanted)["said"]


def test_a_folder_without_a_record_speaks_alone(elsa, saved_model):
    code, out, err = elsa("generate", f"checkpoint={saved_model}", "prompt=the cat", "tokens=5", model=False)
    assert code == 0, err
    assert kept(out)["said"].keys() == {"pruned"}
    assert "has no record of a run, so its dense model is not known" in out


def test_the_verdict_is_from_the_numbers():
    def said(share):
        return [Continuation("", 8, False, share), Continuation("", 8, False, share)]

    assert verdict({"dense": said(0.05), "pruned": said(0.6)}).endswith("dense 5%: it repeats itself")
    assert verdict({"dense": said(0.05), "pruned": said(0.1)}) == "pruned repeats 10% of its 4-grams, dense 5%"
    assert verdict({"pruned": said(0.6)}) == "pruned repeats 60% of its 4-grams"


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("tokens=0", "tokens=0: at least 1"),
        ("temperature=-1.0", "temperature=-1.0: from 0 up"),
        ("top_p=2.0", "top_p=2.0: above 0, at most 1"),
        ("prompt=[]", "prompt=[]: at least one text"),
        ("prompt=''", "prompt='': it has no tokens"),
        ("chat=true", "chat=true: this tokenizer has no chat template"),
        ("tokens=64", "tokens=64: with the 2 of the prompt at most 64 for this model"),
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
    assert "compare=false asks the pruned one alone" in err
    code, _, err = elsa(
        "generate", f"checkpoint={run_folder}", "prompt=the cat", "tokens=5", "compare=false", model=False
    )
    assert code == 0, err
