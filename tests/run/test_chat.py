"""Runs on conversations, from the command to the record."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

import elsa.model.loading
from elsa.data import windows
from elsa.train import loss
from tests.run.runs import records

TINY = Path(elsa.model.loading.__file__).parent / "tiny"
TEMPLATE = (
    "{% for message in messages %}{{ '### ' + message.role + '\\n' + message.content + eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '### assistant\\n' }}{% endif %}"
)
SHORT = ["data.sequence_length=64", "eval.windows=4", "training.steps=4", "training.batch_size=4"]
SHORT += ["training.autocast=none"]


@pytest.fixture
def chats(tmp_path):
    """The tiny model with a chat template, and 60 conversations of which 15 do not fit a window: the arguments."""
    folder = tmp_path / "chatty"
    folder.mkdir()
    for file in TINY.iterdir():
        (folder / file.name).symlink_to(file)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    with (tmp_path / "chats.jsonl").open("w") as file:
        for number in range(60):
            asked = "import os " * (40 if number % 4 == 0 else 2)
            turns = [("user", asked), ("assistant", f"def f{number}(): return {number}")]
            file.write(json.dumps({"messages": [{"role": role, "content": said} for role, said in turns]}) + "\n")
    windows._say.cache_clear()
    files = [f"data.{split}=[{tmp_path}/chats.jsonl]" for split in ("train", "test")]
    return ["model=pretrained", "model.name=chatty", f"model.path={folder}", "data=chat", *files, *SHORT]


@pytest.fixture
def elsa_chat(elsa, chats):
    return lambda *arguments, command=(): elsa(*command, *chats, *arguments, model=False)


def test_a_run_scores_answers_and_says_how_many_there_were(elsa_chat, chats, monkeypatch):
    batches, whole = [], loss.next_token_loss
    monkeypatch.setattr(
        "elsa.train.loop.next_token_loss",
        lambda model, each, *rest: (batches.append(each), whole(model, each, *rest))[1],
    )
    code, out, err = elsa_chat("method=elsa", "method.interval=2", "training.distillation=0.5", "sparsity.ratio=0.5")
    assert code == 0, err
    line = "split: 60 conversations, 15 cut at 64 tokens, 15 without an answer in these, dropped; more are cut than"
    assert [split for split in ("train", "test") if f"the {split} {line}" in out + err] == ["train", "test"]
    assert (out + err).count(line) == 2
    (record,) = (record for record in records().values() if record["method"] == "elsa")
    assert record["data"] == {"train[16]": {"conversations": 60, "cut": 15, "without_answer": 15}}
    tokenizer = AutoTokenizer.from_pretrained(chats[2].partition("=")[2])
    seen = torch.cat(batches)
    assert len(seen) == 16
    answers = tokenizer.decode(seen[seen >= 0]).split(tokenizer.eos_token)[:-1]
    assert {answer[:5] for answer in answers} == {"def f"}
    targets = record["perplexity"]["held_out"]["targets"]
    assert 0 < targets < 4 * 63 / 2


def test_another_template_is_another_run(elsa_chat, chats):
    template = Path(chats[2].partition("=")[2]) / "chat_template.jinja"
    for text in (TEMPLATE, TEMPLATE.replace("###", "##"), TEMPLATE):
        template.write_text(text)
        assert elsa_chat("method=wanda", "method.calibration_windows=4")[0] == 0
    found = [record for record in records().values() if record["method"] == "wanda"]
    assert len(found) == 2
    assert len({record["key"]["question"] for record in found}) == 2
    assert len({record["data_sha256"]["train[4]"] for record in found}) == 2


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_layer_wise_methods_take_conversations(elsa_chat, method):
    code, _, err = elsa_chat(f"method={method}", "method.calibration_windows=4", "sparsity.allocation=global")
    assert code == 0, err
    folder = next(folder for folder, record in records().items() if record["method"] == method)
    assert all(tensor.isfinite().all() for tensor in load_file(folder / "model/model.safetensors").values())


def test_the_pruned_model_keeps_its_template_and_is_scored_later(elsa_chat, chats):
    assert elsa_chat("method=magnitude")[0] == 0
    folder = next(folder for folder, record in records().items() if record["method"] == "magnitude")
    assert AutoTokenizer.from_pretrained(folder / "model").chat_template == TEMPLATE


def test_a_model_without_a_template_is_refused_in_a_line(elsa_chat, chats):
    (Path(chats[2].partition("=")[2]) / "chat_template.jinja").unlink()
    for command in ((), ("doctor",)):
        code, out, err = elsa_chat("method=wanda", command=command)
        assert code == 2
        assert "data: the model's tokenizer has no chat template" in out + err


def test_plan_knows_the_length_of_conversations(elsa_chat):
    code, out, err = elsa_chat("method=elsa", "plan.device_memory_gib=80", command=("plan",))
    assert code == 0, err
    assert "4 steps of 256 tokens, 1,024 in all" in out
