"""`elsa export`, and what takes an exported folder."""

import json
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

import elsa as package
from elsa.export.quantizer import sparse_layers
from tests.kernels import needs_kernels
from tests.run.runs import of

PRUNED = ["method=magnitude", "sparsity.ratio=0.8"]


@pytest.fixture
def run_folder(finished):
    """The folder of a run that pruned a small model to 80 %."""
    finished(*PRUNED)
    return of("magnitude")[0]


def perplexity(out):
    return next(line for line in out.splitlines() if line.startswith("held_out: perplexity"))


def test_the_folder_lies_beside_the_model_and_its_bytes_are_told(elsa, run_folder):
    code, out, err = elsa("export", f"checkpoint={run_folder}", model=False)
    assert code == 0, err
    folder = run_folder / "exports/sparse-bfloat16"
    facts = json.loads((folder / "export.json").read_text())
    assert f"{facts['ratio']['of_dense']:.3f} of dense bfloat16" in out
    assert "the cast makes no more" in out
    assert json.loads((folder / "record.json").read_text())["name"] == run_folder.name
    assert (folder / "tokenizer.json").is_file()
    assert AutoModelForCausalLM.from_pretrained(folder).dtype.itemsize == 2


def test_its_scores_are_those_of_the_run_to_the_last_digit(elsa, run_folder, corpus):
    elsa("export", f"checkpoint={run_folder}", "dtype=float32", "to=exported", model=False)
    _, wanted, _ = elsa("evaluate", f"checkpoint={run_folder}", *corpus, model=False)
    code, found, err = elsa("evaluate", "checkpoint=exported", *corpus, model=False)
    assert code == 0, err
    assert perplexity(found) == perplexity(wanted)
    _, half, _ = elsa("evaluate", f"checkpoint={run_folder}", "dtype=bfloat16", *corpus, model=False)
    elsa("export", f"checkpoint={run_folder}", "to=half", model=False)
    _, found, _ = elsa("evaluate", "checkpoint=half", *corpus, model=False)  # in the dtype of its weights
    assert perplexity(found) == perplexity(half) != perplexity(wanted)


def test_int8_prints_the_perplexity_beside(elsa, run_folder):
    code, out, err = elsa("export", f"checkpoint={run_folder}", "dtype=int8", model=False)
    assert code == 0, err
    line = next(line for line in out.splitlines() if line.startswith("held_out: perplexity"))
    assert " before, " in line
    assert line.endswith(" in sparse-int8")


def test_it_can_be_pruned_further(elsa, run_folder, corpus):
    elsa("export", f"checkpoint={run_folder}", "to=exported", model=False)
    arguments = ["model=pretrained", "model.name=again", "model.path=exported", *corpus]
    code, out, err = elsa("prune", "method=magnitude", "sparsity.ratio=0.9", *arguments, model=False)
    assert code == 0, err
    assert "90.0" in out


@needs_kernels
def test_from_python_it_is_sparse_in_memory(elsa, run_folder):
    elsa("export", f"checkpoint={run_folder}", "to=exported", model=False)
    model, tokenizer = package.load("exported")
    assert {layer.form.name for layer in sparse_layers(model).values()} == {"bits"}
    assert tokenizer.decode(tokenizer("the cat").input_ids) == "the cat"
    assert {layer.form.name for layer in sparse_layers(package.load("exported", form="csr")[0]).values()} == {"csr"}
    with pytest.raises(package.UserError, match="was not exported as sparse"):
        package.load(run_folder, form="csr")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["checkpoint=nowhere"], "checkpoint=nowhere: no such folder"),
        (["dtype=int4"], "export.dtype=int4: did you mean 'int8'?"),
        (["export=dense", "dtype=int8"], "export.dtype=int8: known: bfloat16, float16, float32"),
        (["export=zip"], "export=zip: no such choice; known: dense, sparse"),
        (["to=taken/x"], "taken/x: cannot be written"),
        (["evaluate=maybe"], "evaluate=maybe: input should be a valid boolean"),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(elsa, run_folder, arguments, said):
    Path("taken").write_text("a file")
    given = {"checkpoint": str(run_folder)} | dict(argument.split("=", 1) for argument in arguments)
    code, _, err = elsa("export", *(f"{key}={value}" for key, value in given.items()), model=False)
    assert (code, len(err.splitlines())) == (2, 1)
    assert said in err
    assert not (run_folder / "exports").exists()


def test_a_run_that_saved_no_model_is_named(elsa, run_folder):
    code, _, err = elsa("export", f"checkpoint={of('dense')[0]}", model=False)
    assert code == 2
    assert "it holds no model (a dense run saves none)" in err


def test_scores_are_wanted_of_a_folder_without_a_record(elsa, saved_model):
    code, _, err = elsa("export", f"checkpoint={saved_model}", "evaluate=true", "export=dense", model=False)
    assert code == 2
    assert "has no record of a run" in err


def test_another_folder_is_exported_beside_itself(elsa, saved_model):
    code, _, err = elsa("export", f"checkpoint={saved_model}", "export=dense", model=False)
    assert code == 0, err
    assert (saved_model.parent / f"{saved_model.name}-dense-bfloat16/model.safetensors").is_file()


@needs_kernels
def test_bench_times_every_side_and_the_report_shows_it(elsa, run_folder):
    quick = ["prompt=4", "tokens=3", "rounds=2", "compile=false"]
    code, out, err = elsa("bench", f"checkpoint={run_folder}", "batch=[1,2]", *quick, model=False)
    assert code == 0, err
    path = Path(next(line for line in out.splitlines() if line.startswith("record ")).removeprefix("record "))
    assert path.parent == run_folder / "benches"
    found = json.loads(path.read_text())
    assert [batch["batch"] for batch in found["batches"]] == [1, 2]
    sides = found["batches"][0]["sides"]
    names = {"dense float32", "dense bfloat16", "sparse bits", "sparse csr16", "sparse csr", "sparse scipy"}
    assert sides.keys() == names | {"without linear layers"}
    assert sides["sparse bits"]["bytes"] < sides["dense bfloat16"]["bytes"] < sides["dense float32"]["bytes"]
    assert all(len(side["seconds"]) == 2 for side in sides.values())
    assert sides["dense float32"]["logits_differ"] == 0
    assert all(sides[name]["logits_differ"] < 0.1 for name in names)
    assert found["batches"][0]["verdict"]["words"] in out
    code, out, err = elsa("report", model=False)
    assert code == 0, err
    assert "small magnitude 80%" in out
    report = next(Path("outputs/reports").iterdir())
    pictures = {f"deployment_{found['threads']}_{batch}.png" for batch in (1, 2)}
    assert {"benches.jsonl"} | pictures <= {path.name for path in report.iterdir()}
    assert "tokens a second" in (report / "index.html").read_text()
    _, again, _ = elsa("report", f"records=[{report}/records.jsonl]", model=False)
    assert "small magnitude 80%" in again


@pytest.mark.parametrize("content", ["{", "{}", '{"run": "x", "threads": 1, "batches": [{}]}'])
def test_a_broken_bench_is_named_and_left_out(elsa, run_folder, content):
    (run_folder / "benches").mkdir()
    (run_folder / "benches/model.json").write_text(content)
    code, out, err = elsa("report", model=False)
    assert code == 0
    assert len([line for line in err.splitlines() if "benches/model.json" in line]) == 1
    assert "tokens a second" not in out


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("batch=[]", "batch=[]: sizes from 1 up"),
        ("batch=[0]", "batch=[0]: sizes from 1 up"),
        ("tokens=0", "tokens=0: at least 1"),
        ("rounds=1", "rounds=1: at least 2"),
        ("threads=0", "threads=0: at least 1, or null"),
        ("dense=[int8]", "dense=['int8']: from float32, bfloat16, float16, at least one"),
        ("forms=[bit]", "form=bit: did you mean 'bits'?"),
        ("prompt=63", "tokens=32: with the prompt at most 64 for this model"),
    ],
)
def test_a_load_that_cannot_be_is_one_line(elsa, run_folder, argument, said):
    code, _, err = elsa("bench", f"checkpoint={run_folder}", argument, model=False)
    lines = [line for line in err.splitlines() if line.startswith("elsa: ") and "busy" not in line]
    assert (code, len(lines)) == (2, 1)
    assert said in lines[0]
