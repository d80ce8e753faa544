"""Exported folders: written, and read by this package and by plain transformers."""

import hashlib
import json
import subprocess
import sys
import textwrap

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import elsa.export
from elsa.errors import UserError
from elsa.export import writing
from elsa.export.linear import SparseLinear
from elsa.export.quantizer import sparse_layers, use_form
from elsa.export.stored import INDEX, WEIGHTS, Stored
from elsa.export.writing import Dense, Sparse, export
from elsa.model.loading import Pretrained
from elsa.model.weights import prunable_weights
from tests.conftest import CONFIGS, random_model
from tests.kernels import needs_kernels

IDS = torch.arange(40)[None] % 299
DTYPES = ["float32", "bfloat16", "float16", "int8"]


def pruned(family, share=0.2):
    """A random model of which a share of the prunable weights is left, one row of each matrix empty."""
    model = random_model(family)
    for weight in prunable_weights(model).values():
        kept = torch.rand(weight.shape_OI, generator=torch.Generator().manual_seed(0)) < share
        kept[0] = False
        weight.write(weight.value_OI * kept)
    return model


@pytest.fixture
def exported(tmp_path, tokenizer):
    """Save a model with its tokenizer, and export it: the new folder."""

    def run(model, form, to="exported", **more):
        model.save_pretrained(tmp_path / "model", save_original_format=False)
        tokenizer.save_pretrained(tmp_path / "model")
        matrices = {name: weight.transposed for name, weight in prunable_weights(model).items()}
        export(Stored(tmp_path / "model"), matrices, form, tmp_path / to, **more)
        return tmp_path / to

    return run


def with_zeros(folder, dtype="float32"):
    """The model of an exported folder as this package loads any model."""
    return Pretrained(name="m", path=str(folder), dtype=dtype).load(folder / "cache", "cpu")[0]


def name_of(dtype):
    return str(dtype).removeprefix("torch.")


def logits(model, ids=IDS):
    with torch.no_grad():
        return model(ids).logits


def hashes(folder):
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.safetensors")}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", CONFIGS)
def test_plain_transformers_loads_it_and_the_logits_are_the_same(exported, family, dtype):
    model = pruned(family)
    folder = exported(model, Sparse(dtype=dtype))
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert len(sparse_layers(loaded)) == len(prunable_weights(model))
    plain = with_zeros(folder, name_of(loaded.dtype))
    assert not sparse_layers(plain)
    assert torch.equal(logits(loaded), logits(plain))  # a long input, for which the matrices are made dense
    torch.testing.assert_close(logits(loaded, IDS[:, :3]), logits(plain, IDS[:, :3]), rtol=0.05, atol=0.05)
    if dtype != "int8":
        source = AutoModelForCausalLM.from_pretrained(folder.parent / "model", dtype=loaded.dtype)
        assert torch.equal(logits(plain), logits(source))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_saving_what_was_loaded_gives_the_same_bytes(exported, tmp_path, family, dtype):
    folder = exported(pruned(family), Sparse(dtype=dtype))
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    loaded.save_pretrained(tmp_path / "again")
    assert hashes(tmp_path / "again") == hashes(folder)
    again, first = (json.loads((each / "config.json").read_text()) for each in (tmp_path / "again", folder))
    assert again["quantization_config"] == first["quantization_config"]
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "again")), logits(loaded))


def test_it_generates_and_goes_to_a_device_map_and_has_its_generation_config(exported):
    model = pruned("llama")
    model.generation_config.max_new_tokens = 5
    folder = exported(model, Sparse(dtype="float32"))
    for more in ({}, {"device_map": "cpu"}, {"device_map": {"": "cpu"}}):
        loaded = AutoModelForCausalLM.from_pretrained(folder, **more)
        assert torch.equal(loaded.generate(IDS[:, :4], do_sample=False), model.generate(IDS[:, :4], do_sample=False))
    assert with_zeros(folder).generation_config.max_new_tokens == 5


def test_transformers_may_compile_its_step_and_not_train_it(exported):
    loaded = AutoModelForCausalLM.from_pretrained(exported(pruned("llama"), Sparse(dtype="float32")))
    assert loaded.hf_quantizer.is_compileable
    assert not loaded.hf_quantizer.is_trainable


def test_a_wanted_dtype_is_given(exported):
    folder = exported(pruned("llama"), Sparse(dtype="float32"))
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert torch.equal(logits(loaded), logits(with_zeros(folder, "bfloat16")))


@needs_kernels
def test_every_form_gives_the_same_logits(exported):
    folder = exported(pruned("llama"), Sparse(dtype="float32"))
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    wanted = logits(with_zeros(folder), IDS[:, :4])
    for name in ("bits", "csr16", "csr", "scipy", "dense", None):
        use_form(loaded, name)
        assert name in ({layer.form.name for layer in sparse_layers(loaded).values()}, None) or name is not None
        torch.testing.assert_close(logits(loaded, IDS[:, :4]), wanted)
    with pytest.raises(UserError, match="form=gaps"):
        use_form(loaded, "gaps")


def test_a_tied_head_is_written_once_and_tied_again(exported):
    model = pruned("gemma2")
    folder = exported(model, Sparse(dtype="bfloat16"))
    assert "lm_head.weight" not in load_file(folder / WEIGHTS)
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.lm_head.weight is loaded.model.embed_tokens.weight


def test_a_large_model_is_several_files(exported, monkeypatch, tmp_path):
    model = pruned("llama")
    one = exported(model, Sparse(dtype="float32"), to="one")
    monkeypatch.setattr(writing, "SHARD", 20_000)
    several = exported(model, Sparse(dtype="float32"), to="several")
    names = sorted(path.name for path in several.glob("*.safetensors"))
    assert names == [f"elsa-{number:05}-of-{len(names):05}.safetensors" for number in range(1, len(names) + 1)]
    assert len(names) > 2
    found = {name: tensor for path in several.glob("*.safetensors") for name, tensor in load_file(path).items()}
    torch.testing.assert_close(found, load_file(one / WEIGHTS), rtol=0, atol=0)
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(several)), logits(model))
    dense = exported(model, Dense(dtype="float32"), to="dense")
    assert (dense / "model.safetensors.index.json").is_file()
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(dense)), logits(model))
    (several / names[1]).unlink()
    with pytest.raises(UserError, match=r"1 of its .* files of weights are missing"):
        with_zeros(several)


def test_the_dense_one_is_a_plain_folder(exported):
    model = pruned("llama")
    folder = exported(model, Dense(dtype="bfloat16"))
    assert "quantization_config" not in json.loads((folder / "config.json").read_text())
    loaded = AutoModelForCausalLM.from_pretrained(folder)
    assert loaded.dtype == torch.bfloat16
    source = AutoModelForCausalLM.from_pretrained(folder.parent / "model", dtype=torch.bfloat16)
    assert torch.equal(logits(loaded), logits(source))


def test_bytes_and_zeros_are_counted(exported):
    model = pruned("llama")
    folder = exported(model, Sparse(dtype="bfloat16"), record={"name": "a run"})
    facts = json.loads((folder / "export.json").read_text())
    tensors = load_file(folder / WEIGHTS)
    assert facts["bytes"]["total"] == sum(tensor.nbytes for tensor in tensors.values())
    assert facts["bytes"]["dense"] == sum(2 * parameter.numel() for parameter in model.parameters())
    weights = prunable_weights(model).values()
    zeros = sum(int((weight.value_OI == 0).sum()) for weight in weights)
    assert facts["zeros"] == {"numel": sum(weight.numel for weight in weights), "before": zeros, "after": zeros}
    assert facts["files"] == hashes(folder)
    assert json.loads((folder / "record.json").read_text()) == {"name": "a run"}
    assert all(count["layout"] in ("bits", "gaps") for count in facts["matrices"].values())


def test_zeros_that_a_cast_makes_are_counted(exported):
    model = pruned("llama")
    weight = next(iter(prunable_weights(model).values()))
    weight.value_OI[1, :5] = 1e-9  # below what float16 can hold
    facts = json.loads((exported(model, Sparse(dtype="float16")) / "export.json").read_text())
    assert facts["zeros"]["after"] - facts["zeros"]["before"] == 5


def test_a_dense_model_is_not_made_larger(exported, tmp_path):
    with pytest.raises(UserError, match=r"not smaller: 0.0% of the pruned weights are zero; export=dense"):
        exported(random_model("llama"), Sparse(dtype="bfloat16"))
    assert not (tmp_path / "exported").exists()


@pytest.mark.parametrize(
    ("value", "dtype", "said"),
    [(float("nan"), "float32", "NaN or infinity"), (1e6, "float16", "float16 cannot hold its largest values")],
)
def test_what_cannot_be_held_is_refused(exported, tmp_path, value, dtype, said):
    model = pruned("llama")
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = value
    with pytest.raises(UserError, match=f"model.layers.1.mlp.up_proj.weight: {said}"):
        exported(model, Sparse(dtype=dtype))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]  # nothing half-written


def without(name):
    return lambda tensors: {key: tensor for key, tensor in tensors.items() if key != name}


def with_other(name, change):
    return lambda tensors: tensors | {name: change(tensors[name].clone())}


def flipped(tensor):
    tensor.view(torch.uint8).view(-1)[3] ^= 1
    return tensor


DAMAGE = {
    "a part is missing": without("model.layers.0.mlp.up_proj.weight_values"),
    "a bit is flipped": with_other("model.layers.0.mlp.up_proj.weight_values", flipped),
    "a part is cut": with_other("model.layers.0.mlp.up_proj.weight_values", lambda values: values[:-1]),
    "another tensor is missing": without("model.norm.weight"),
    "one too many": lambda tensors: tensors | {"model.extra": torch.ones(1)},
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_missing_or_broken_tensor_is_refused(exported, damage):
    folder = exported(pruned("llama"), Sparse(dtype="float32"))
    save_file(damage(load_file(folder / WEIGHTS)), folder / WEIGHTS)
    with pytest.raises(UserError):
        AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(UserError):
        with_zeros(folder)


def test_another_version_is_refused(exported):
    folder = exported(pruned("llama"), Sparse(dtype="float32"))
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["version"] = 2
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="version 2 of elsa_sparse; this elsa reads 1"):
        AutoModelForCausalLM.from_pretrained(folder)
    with pytest.raises(UserError, match="version 2 of elsa_sparse; this elsa reads 1"):
        with_zeros(folder)


@pytest.mark.parametrize("again", [False, True])
def test_without_this_package_a_folder_is_an_error(exported, tmp_path, again):
    """Never a model with random weights; nor after it was loaded and saved again."""
    folder = exported(pruned("llama"), Sparse(dtype="float32"))
    if again:
        AutoModelForCausalLM.from_pretrained(folder).save_pretrained(tmp_path / "again")
        folder = tmp_path / "again"
    program = textwrap.dedent(f"""
        from transformers import AutoModelForCausalLM
        try:
            AutoModelForCausalLM.from_pretrained({str(folder)!r})
        except OSError as error:
            print("refused:", error)
    """)
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "refused: Error no file named model.safetensors" in found.stdout


def test_the_index_names_every_tensor(exported, monkeypatch):
    monkeypatch.setattr(writing, "SHARD", 20_000)
    folder = exported(pruned("llama"), Sparse(dtype="float32"))
    places = json.loads((folder / INDEX).read_text())["weight_map"]
    found = {name: path.name for path in folder.glob("*.safetensors") for name in load_file(path)}
    assert places == found


def test_a_sparse_folder_can_be_exported_again(exported, tmp_path):
    model = pruned("llama")
    folder = exported(model, Sparse(dtype="float32"))
    matrices = {name: weight.transposed for name, weight in prunable_weights(model).items()}
    export(Stored(folder), matrices, Dense(dtype="float32"), tmp_path / "dense")
    assert torch.equal(logits(AutoModelForCausalLM.from_pretrained(tmp_path / "dense")), logits(model))


def test_registering_twice_is_once():
    elsa.export.register()
    elsa.export.register()


@needs_kernels
def test_a_layer_says_what_it_is(exported):
    loaded = AutoModelForCausalLM.from_pretrained(exported(pruned("llama", 0.03), Sparse(dtype="float32")))
    layer = loaded.model.layers[0].mlp.up_proj
    assert isinstance(layer, SparseLinear)
    assert str(layer) == "SparseLinear(in_features=32, out_features=48, csr16)"
