"""lm-eval's own tasks on files that the tests write, with the network blocked."""

import json
import statistics

import pytest
import torch

from elsa.data.windows import WindowReader
from elsa.errors import UserError
from elsa.evaluation.base import Subject, paired, summary_of
from elsa.evaluation.harness import weights_hash
from elsa.evaluation.zero_shot import ZeroShot
from tests.conftest import CONFIGS, random_model

ARC = [
    {
        "id": f"q{i}", "question": f"Which animal is number {i}?", "answerKey": "ABCD"[i % 4],
        "choices": {"text": ["cat", "dog", "mat", "hat"], "label": ["A", "B", "C", "D"]},
    }
    for i in range(10)
]  # fmt: skip
RTE = [{"sentence1": f"the cat sat {i}", "sentence2": "the cat", "label": i % 2, "idx": i} for i in range(10)]


def write(folder, task, rows, split="validation"):
    (folder / task).mkdir(parents=True, exist_ok=True)
    (folder / task / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def mirror(tmp_path):
    write(tmp_path / "mirror", "arc_easy", ARC)
    write(tmp_path / "mirror", "rte", RTE)
    return tmp_path / "mirror"


def zero_shot(mirror, **changes):
    settings = {"tasks": ["arc_easy", "rte"], "limit": None, "num_fewshot": 0, "batch_size": 4, "mirror": str(mirror)}
    return ZeroShot(**settings | changes)


def score(evaluation, model, tokenizer, tmp_path):
    evaluation.check()
    prepared = evaluation.prepare(WindowReader(tokenizer=tokenizer, cache=tmp_path))
    subject = Subject(model=model, tokenizer=tokenizer, cache=tmp_path / "cache")
    return evaluation.evaluate(subject, prepared)["zero_shot"]


def longest(model, tokenizer, prompt, choices):
    """The most likely continuation, by the definition."""
    scores = []
    for choice in choices:
        before, after = tokenizer(prompt)["input_ids"], tokenizer(f"{prompt} {choice}")["input_ids"]
        with torch.no_grad():
            logits = model(torch.tensor([after])).logits.log_softmax(-1)[0]
        scores.append(sum(logits[i - 1, after[i]].item() for i in range(len(before), len(after))))
    return max(range(len(choices)), key=lambda i: scores[i])


def test_accuracy_is_that_of_the_most_likely_continuation(mirror, llama, tokenizer, tmp_path):
    found = score(zero_shot(mirror), llama, tokenizer, tmp_path)
    expected = [
        int(longest(llama, tokenizer, f"Question: {row['question']}\nAnswer:", row["choices"]["text"]) == i % 4)
        for i, row in enumerate(ARC)
    ]
    assert found["items"]["arc_easy"] == expected
    arc = found["tasks"]["arc_easy"]
    assert arc["acc"] == sum(expected) / 10
    assert arc["acc_stderr"] == pytest.approx((arc["acc"] * (1 - arc["acc"]) / 9) ** 0.5)
    assert {"acc_norm", "acc_norm_stderr", "version", "num_fewshot", "data_sha256"} <= arc.keys()
    assert (arc["n"], found["limit"], found["dtype"]) == (10, None, "float32")
    assert found["average_acc"] == pytest.approx((arc["acc"] + found["tasks"]["rte"]["acc"]) / 2)
    assert summary_of({"zero_shot": found})["zero_shot/average"] == found["average_acc"]


def test_a_model_in_training_mode_answers_without_dropout(tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(CONFIGS["opt"], "dropout", 0.5)
    words = ["cat", "sat", "mat", "the"]  # a token each, so that none is far more likely than another
    write(tmp_path / "mirror", "arc_easy", [row | {"choices": {"text": words, "label": list("ABCD")}} for row in ARC])
    asked = zero_shot(tmp_path / "mirror", tasks=["arc_easy"])
    found = score(asked, random_model("opt").train(), tokenizer, tmp_path)
    prompts = [f"Question: {row['question']}\nAnswer:" for row in ARC]
    expected = [longest(random_model("opt"), tokenizer, prompt, words) for prompt in prompts]
    assert found["items"]["arc_easy"] == [int(choice == i % 4) for i, choice in enumerate(expected)]


def test_scores_are_kept_by_content_and_another_model_is_really_called(mirror, tokenizer, tmp_path):
    calls = []

    def counted(model):
        model.register_forward_hook(lambda *_: calls.append(1))
        before = len(calls)
        return score(zero_shot(mirror), model, tokenizer, tmp_path), len(calls) - before

    first, cost = counted(random_model("llama"))
    assert cost > 0
    again, cost = counted(random_model("llama"))
    assert (again, cost) == (first, 0)
    pruned = random_model("llama")
    pruned.model.layers[0].mlp.up_proj.weight.data[0, 0] = 0
    _, cost = counted(pruned)
    assert cost > 0
    write(mirror, "arc_easy", [*ARC[1:], ARC[0]])
    moved, cost = counted(random_model("llama"))
    assert cost > 0
    assert moved["tasks"]["arc_easy"]["data_sha256"] != first["tasks"]["arc_easy"]["data_sha256"]
    _, cost = counted(random_model("llama").bfloat16())
    assert cost > 0


def test_a_limit_is_said_and_recorded(mirror, llama, tokenizer, tmp_path, caplog):
    caplog.set_level("INFO", "elsa")
    found = score(zero_shot(mirror, limit=3), llama, tokenizer, tmp_path)
    assert "first 3 documents of each task only: limited scores" in caplog.text
    assert (found["limit"], found["tasks"]["rte"]["n"], len(found["items"]["rte"])) == (3, 3, 3)


def test_few_shot_examples_come_from_the_train_split(mirror, llama, tokenizer, tmp_path):
    write(mirror, "arc_easy", ARC[:4], split="train")
    plain = score(zero_shot(mirror, tasks=["arc_easy"]), llama, tokenizer, tmp_path)
    shots = score(zero_shot(mirror, tasks=["arc_easy"], num_fewshot=1), llama, tokenizer, tmp_path)
    assert (plain["tasks"]["arc_easy"]["num_fewshot"], shots["tasks"]["arc_easy"]["num_fewshot"]) == (0, 1)


def test_a_difference_is_paired_over_the_same_items():
    dense = {"tasks": {"a": {"data_sha256": "x"}, "b": {"data_sha256": "x"}}, "items": {"a": [1, 1, 1, 0], "b": [1]}}
    pruned = {"tasks": {"a": {"data_sha256": "x"}, "b": {"data_sha256": "y"}}, "items": {"a": [1, 0, 0, 1], "b": [1]}}
    found = paired(dense, pruned)
    assert found.keys() == {"a"}
    assert (found["a"]["difference"], found["a"]["lost"], found["a"]["gained"]) == (-0.25, 2, 1)
    error = (sum((change + 0.25) ** 2 for change in (0, -1, -1, 1)) / 3 / 4) ** 0.5
    assert -0.25 - 1.96 * error < -1
    assert found["a"]["low"] == -1.0, "no difference of accuracies is lower"


def answers(**items):
    return {"tasks": {name: {"data_sha256": "x"} for name in items}, "items": items}


def test_the_interval_reaches_196_standard_errors_to_either_side():
    before, after = [1, 1, 0, 0, 1, 0, 1, 1], [0, 1, 1, 0, 1, 0, 0, 0]
    changes = [new - old for old, new in zip(before, after, strict=True)]
    reach = 1.96 * statistics.stdev(changes) / 8**0.5
    assert paired(answers(a=before), answers(a=after))["a"] == {
        "difference": -0.25, "low": pytest.approx(-0.25 - reach), "high": pytest.approx(-0.25 + reach),
        "lost": 3, "gained": 1, "n": 8,
    }  # fmt: skip


def test_answers_scored_by_a_share_are_compared_by_it():
    def result(items):
        return {"tasks": {"t": {"data_sha256": "d"}}, "items": {"t": items}}

    found = paired(result([0.5, 0.25, 1.0, 0.75]), result([0.25, 0.5, 0.5, 0.75]))["t"]
    changes = [-0.25, 0.25, -0.5, 0.0]
    error = statistics.stdev(changes) / 2
    assert found["difference"] == pytest.approx(-0.125)
    assert (found["low"], found["high"]) == (pytest.approx(-0.125 - 1.96 * error), pytest.approx(-0.125 + 1.96 * error))
    assert (found["lost"], found["gained"]) == (2, 1)


def test_an_interval_of_a_difference_stays_within_what_a_difference_can_be():
    def result(items):
        return {"tasks": {"t": {"data_sha256": "d"}}, "items": {"t": items}}

    found = paired(result([1, 0, 0]), result([0, 1, 0]))["t"]
    assert (found["low"], found["high"]) == (-1.0, 1.0)


def test_a_single_answer_has_an_interval_without_width():
    found = paired(answers(a=[0]), answers(a=[1]))["a"]
    assert (found["difference"], found["low"], found["high"]) == (1.0, 1.0, 1.0)


def test_a_task_that_the_dense_model_was_not_asked_is_left_out():
    assert paired(answers(a=[1]), answers(a=[1], b=[1])).keys() == {"a"}


def test_the_hash_of_the_weights_sees_every_weight(llama):
    before = weights_hash(llama)
    assert weights_hash(random_model("llama")) == before
    llama.lm_head.weight.data[0, 0] += 1
    assert weights_hash(llama) != before


def test_what_is_missing_is_one_line(mirror, llama, tokenizer, tmp_path):
    with pytest.raises(UserError, match=r"tasks=arc_esy: lm-eval has no such task or group; did you mean 'arc_easy'\?"):
        zero_shot(mirror, tasks=["arc_esy"]).check()
    with pytest.raises(UserError, match=r"mirror=.*: no boolq/test\.jsonl there"):
        zero_shot(mirror, tasks=["boolq"]).check()
    with pytest.raises(UserError, match="mirror=null: the hub cannot be reached"):
        ZeroShot(tasks=["rte"], limit=None, num_fewshot=0, batch_size=1, mirror=None).check()
    write(mirror, "rte", [{"sentence1": "a", "hypothesis": "b", "label": 0}])
    with pytest.raises(UserError, match=r"mirror/rte lacks a column that the task reads: 'sentence2' is undefined"):
        score(zero_shot(mirror), llama, tokenizer, tmp_path)
    write(mirror, "hellaswag", [{"activity_label": "x"}])
    with pytest.raises(UserError, match=r"mirror/hellaswag"):
        score(zero_shot(mirror, tasks=["hellaswag"]), llama, tokenizer, tmp_path)
    (mirror / "rte/validation.jsonl").write_text("{broken")
    with pytest.raises(UserError, match=r"mirror/rte/validation\.jsonl:1: no valid JSON"):
        score(zero_shot(mirror, tasks=["rte"]), llama, tokenizer, tmp_path)
