"""A model in a GGUF file inside an installed package, met for the first time: nothing is in the cache."""

import json

import gguf
import numpy as np
import pytest
import torch
from transformers import LlamaConfig

from elsa.model.loading import PackagedGguf
from elsa.model.weights import coverage

SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
NAMES = {  # of llama.cpp
    "attn_q": (64, 64), "attn_k": (32, 64), "attn_v": (32, 64), "attn_output": (64, 64), "ffn_gate": (96, 64),
    "ffn_up": (96, 64), "ffn_down": (64, 96), "attn_norm": (64,), "ffn_norm": (64,),
}  # fmt: skip


@pytest.fixture
def package(tmp_path, monkeypatch, tokenizer):
    """An importable package that holds a Llama of 300 tokens and two blocks."""
    folder = tmp_path / "small_gguf"
    folder.mkdir()
    (folder / "__init__.py").touch()
    writer = gguf.GGUFWriter(folder / "model.gguf", "llama")
    config = LlamaConfig(**SIZES, num_key_value_heads=2, vocab_size=300)
    writer.add_context_length(64)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_dimension_count(16)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(300)
    words = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([word for word, _ in words])
    writer.add_token_types(
        [gguf.TokenType.CONTROL if word in ("<e>", "<b>") else gguf.TokenType.NORMAL for word, _ in words]
    )
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_bos_token_id(tokenizer.bos_token_id)
    random = np.random.default_rng(0)
    shapes = {"token_embd": (300, 64), "output": (300, 64), "output_norm": (64,)}
    shapes |= {f"blk.{block}.{name}": shape for block in range(2) for name, shape in NAMES.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", random.normal(size=shape).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    monkeypatch.syspath_prepend(tmp_path)
    return PackagedGguf(name="small", package="small_gguf", version="1.0", file="model.gguf")


def test_its_structure_can_be_seen_before_it_was_ever_converted(package, tmp_path):
    package.check()
    skeleton = package.skeleton(tmp_path / "cache")
    assert {parameter.device.type for parameter in skeleton.parameters()} == {"meta"}
    assert coverage(skeleton).share == 1.0


def test_it_loads_with_the_weights_of_the_file(package, tokenizer, tmp_path):
    model, found_tokenizer = package.load(tmp_path / "cache", "cpu")
    file = gguf.GGUFReader(tmp_path / "small_gguf/model.gguf")
    stored = {tensor.name: tensor.data for tensor in file.tensors}
    found = model.state_dict()
    assert torch.equal(found["model.embed_tokens.weight"], torch.tensor(stored["token_embd.weight"]))
    assert torch.equal(found["model.layers.1.mlp.down_proj.weight"], torch.tensor(stored["blk.1.ffn_down.weight"]))
    assert found_tokenizer.convert_ids_to_tokens(200) == tokenizer.convert_ids_to_tokens(200)
