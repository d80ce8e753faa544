"""Shared fixtures: random models of eight families, a small trained tokenizer, and no network."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ["TORCHDYNAMO_DISABLE"] = "1"  # torchao's Adam compiles for every shape: seconds each
os.environ.pop("WANDB_API_KEY", None)

import copy
import socket
from typing import NamedTuple

import pytest
import torch
from tokenizers import Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as tokenizer_models
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    PreTrainedTokenizerFast,
    Qwen3Config,
)

from tests.pretended_gpu import pretended_gpu

VOCABULARY = 300


def pytest_addoption(parser):
    parser.addoption("--write-golden", action="store_true", help="keep what tests/run/test_golden.py finds")
    parser.addoption("--slow", action="store_true", help="run the tests marked slow too")
    parser.addoption("--device", choices=("pretended", "cuda"), default="pretended", help="the GPU of the tests")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if item.get_closest_marker("slow"):
                item.add_marker(pytest.mark.skip(reason="slow: run with --slow"))


_SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY}
_SIZES |= {"max_position_embeddings": 64}
_GATED = _SIZES | {"intermediate_size": 48, "num_key_value_heads": 2, "head_dim": 8}

_MIXED = ["sliding_attention", "full_attention"]

CONFIGS = {
    "llama": LlamaConfig(**_GATED),
    "opt": OPTConfig(**_SIZES, ffn_dim=64, word_embed_proj_dim=32, dropout=0.0),
    "gemma2": Gemma2Config(**_GATED, sliding_window=8, query_pre_attn_scalar=8),
    "qwen3": Qwen3Config(**_GATED),
    "gemma3": Gemma3TextConfig(**_GATED, sliding_window=8, query_pre_attn_scalar=8, layer_types=_MIXED),
    "mistral": MistralConfig(**_GATED, sliding_window=8),
    "gpt_neox": GPTNeoXConfig(**_SIZES, intermediate_size=64),
    "gpt2": GPT2Config(n_embd=32, n_layer=2, n_head=4, n_positions=64, vocab_size=VOCABULARY),
}


def random_model(family: str, seed: int = 0):
    """An untrained model of a family, weights drawn with `seed`, large enough that activations matter."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(copy.deepcopy(CONFIGS[family])).eval()  # a model may change its config
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.normal_(std=0.1)
    return model


@pytest.fixture(params=CONFIGS)
def model(request):
    return random_model(request.param)


@pytest.fixture
def llama():
    return random_model("llama")


class Gpu(NamedTuple):
    """`exact`: it gives the CPU's bits."""

    device: torch.device
    exact: bool


@pytest.fixture
def gpu(request, monkeypatch):
    """The GPU of this machine with `--device cuda`, else a pretended one."""
    if request.config.getoption("--device") == "cuda":
        yield Gpu(torch.device("cuda"), exact=False)
        return
    with pretended_gpu(monkeypatch) as device:
        yield Gpu(device, exact=True)


@pytest.fixture
def windows():
    """24 windows of 16 random tokens, int32."""
    return torch.randint(0, VOCABULARY, (24, 16), generator=torch.Generator().manual_seed(1), dtype=torch.int32)


@pytest.fixture(scope="session")
def tokenizer():
    """A byte-level BPE with an end-of-text and a beginning-of-text mark."""
    tokenizer = Tokenizer(tokenizer_models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=["<e>", "<b>"], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(["the cat sat on the mat " * 20], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<e>", bos_token="<b>")


@pytest.fixture
def saved_model(tmp_path, llama, tokenizer):
    """A folder with a random Llama and the tokenizer, as a user would have it."""
    folder = tmp_path / "a_model"
    llama.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def corpus(tmp_path):
    """Data overrides for a small local corpus with all three splits."""
    for split, words in {"train": 4000, "validation": 600, "test": 600}.items():
        generator = torch.Generator().manual_seed(len(split))
        letters = torch.randint(97, 123, (words, 4), generator=generator).tolist()
        (tmp_path / f"{split}.txt").write_text(" ".join("".join(map(chr, word)) for word in letters))
    files = [f"data.{split}=[{tmp_path / split}.txt]" for split in ("train", "validation", "test")]
    return ["data=text", "data.sequence_length=16", *files]


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any attempt to leave this machine fails the test."""
    connect = socket.socket.connect

    def guarded(self, address):
        if self.family == socket.AF_UNIX or address[0] in ("127.0.0.1", "::1", "localhost"):
            return connect(self, address)
        raise AssertionError(f"a test tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", guarded)
