"""Tasks of lm-eval by name and by group, of every kind that compares likelihoods, on files that the tests write."""

import json
import math

import pytest
import torch

from elsa.errors import UserError, under
from elsa.evaluation.base import paired, summary_of
from elsa.evaluation.tasks import definition_file, expanded, known_tasks
from elsa.evaluation.zero_shot import ZeroShot
from elsa.report.table import columns, print_zero_shot, score_tables
from tests.evaluation.test_zero_shot import ARC, score, write, zero_shot


def test_a_group_is_its_tasks_in_their_order_each_once():
    stem = expanded(["mmlu_stem"], "zero_shot")
    assert len(stem) == 19
    assert "mmlu_abstract_algebra" in stem  # whose name is quoted in its YAML
    assert len(expanded(["mmlu"], "zero_shot")) == 57
    assert expanded(["arc_easy", "ai2_arc"], "zero_shot") == ["arc_easy", "arc_challenge"]
    assert definition_file("arc_easy").name == "arc_easy.yaml"
    assert all(definition_file(name).is_file() for name in stem)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("arc_esy", r"tasks=arc_esy: lm-eval has no such task or group; did you mean 'arc_easy'\?"),
        ("x" * 99, "no such task or group; known: "),
        ("gsm8k", "tasks=gsm8k: it is scored by generate_until; this evaluation takes tasks of multiple_choice"),
        ("scrolls_narrativeqa", "scored by its own Python class"),
    ],
)
def test_what_cannot_be_asked_is_refused_in_one_short_line(name, line):
    with pytest.raises(UserError, match=line) as caught:
        expanded([name], "zero_shot")
    assert len(str(caught.value)) < 3000
    assert "\n" not in str(caught.value)


def test_the_index_is_remembered_in_a_file(tmp_path, monkeypatch):
    known = dict(known_tasks())
    monkeypatch.setattr("elsa.evaluation.tasks._index", {})
    monkeypatch.setattr("elsa.evaluation.tasks._asked", lambda: known)
    assert known_tasks(tmp_path) == known
    monkeypatch.setattr("elsa.evaluation.tasks._index", {})
    monkeypatch.setattr("elsa.evaluation.tasks._asked", lambda: pytest.fail("it is in the file"))
    assert known_tasks(tmp_path) == known


def log_likelihoods(model, ids, start):
    """Of every token from `start` on, and whether each is the most likely one."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits.log_softmax(-1)[0]
    places = range(start, len(ids))
    return [logits[i - 1, ids[i]].item() for i in places], all(int(logits[i - 1].argmax()) == ids[i] for i in places)


def test_a_last_word_is_scored_by_its_likelihood_and_by_being_the_likeliest(llama, tokenizer, tmp_path):
    rows = [{"text": f"the cat sat on the mat {word}"} for word in ("cat", "sat", "the", "mat")]
    write(tmp_path / "mirror", "lambada_openai", rows, split="test")
    found = score(zero_shot(tmp_path / "mirror", tasks=["lambada_openai"]), llama, tokenizer, tmp_path)
    expected, right = [], []
    for row in rows:
        prompt, _, word = row["text"].rpartition(" ")
        before = tokenizer(prompt)["input_ids"]
        likelihoods, likeliest = log_likelihoods(llama, tokenizer(f"{prompt} {word}")["input_ids"], len(before))
        expected.append(sum(likelihoods))
        right.append(int(likeliest))
    task = found["tasks"]["lambada_openai"]
    assert task["perplexity"] == pytest.approx(math.exp(-sum(expected) / len(expected)), rel=1e-4)
    assert (task["acc"], found["items"]["lambada_openai"]) == (sum(right) / 4, right)
    assert found["average_acc"] == task["acc"]


@pytest.fixture
def rolling(llama, tokenizer, tmp_path):
    """Scores of a task without accuracy beside one that has it."""
    pages = ["the cat sat on the mat", "the mat sat"]
    write(tmp_path / "mirror", "wikitext", [{"page": page} for page in pages], split="test")
    write(tmp_path / "mirror", "arc_easy", ARC)
    found = score(zero_shot(tmp_path / "mirror", tasks=["wikitext", "arc_easy"]), llama, tokenizer, tmp_path)
    return pages, found


def test_pages_are_scored_by_word_and_by_byte(rolling, llama, tokenizer):
    pages, found = rolling
    total = 0.0
    for page in pages:
        ids = [tokenizer.bos_token_id, *tokenizer(page)["input_ids"]]  # as lm-eval begins a page
        total += sum(log_likelihoods(llama, ids, 1)[0])
    words, letters = (sum(map(len, parts)) for parts in ([page.split() for page in pages], pages))
    task = found["tasks"]["wikitext"]
    assert task["word_perplexity"] == pytest.approx(math.exp(-total / words), rel=1e-4)
    assert task["byte_perplexity"] == pytest.approx(math.exp(-total / letters), rel=1e-4)
    assert task["bits_per_byte"] == pytest.approx(-total / letters / math.log(2), rel=1e-4)


def test_a_task_without_accuracy_is_shown_and_not_averaged(rolling, capsys):
    _, found = rolling
    assert found["average_acc"] == found["tasks"]["arc_easy"]["acc"]
    assert found["items"].keys() == {"arc_easy"}
    summary = summary_of({"zero_shot": found})
    assert summary["zero_shot/wikitext/word_perplexity"] == found["tasks"]["wikitext"]["word_perplexity"]
    assert summary["zero_shot/average"] == found["average_acc"]
    assert paired(found, found).keys() == {"arc_easy"}
    record = {"method": "dense", "perplexity": {}, "zero_shot": found}
    print_zero_shot([record])
    assert "word_perplexity" in capsys.readouterr().out
    assert [row[0] for row in score_tables(record)["zero_shot_table"]] == ["task", "wikitext", "arc_easy"]


def test_tasks_without_any_accuracy_have_no_average(rolling):
    _, found = rolling
    alone = found | {"average_acc": None, "tasks": {"wikitext": found["tasks"]["wikitext"]}}
    assert "zero_shot/average" not in summary_of({"zero_shot": alone})
    record = {
        "model": "m", "method": "dense", "perplexity": {}, "zero_shot": alone, "facts": {}, "peak_memory_bytes": 0,
        "sparsity": {"counted": 0.0}, "seconds": {"prune": 0.0},
    }  # fmt: skip
    headers, rows = columns([record])
    assert rows[0][headers.index("zero-shot acc")] == "--"


FINE = json.dumps(ARC[0])


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        ([], r"arc_easy/test\.jsonl: the file is empty"),
        ([FINE, "junk"], r"test\.jsonl:2: no valid JSON"),
        ([FINE, "[1]"], r"test\.jsonl:2: no JSON object"),
        ([json.dumps({k: v for k, v in ARC[0].items() if k != "question"})], "lacks a column that the task reads"),
        (
            [FINE, json.dumps(ARC[0] | {"answerKey": "Z"})],
            "document 2 of .*arc_easy cannot be read: 'Z' is not in list",
        ),
    ],
)
def test_broken_documents_are_named_before_any_work(tmp_path, tokenizer, lines, said):
    (tmp_path / "mirror/arc_easy").mkdir(parents=True)
    (tmp_path / "mirror/arc_easy/test.jsonl").write_text("".join(f"{line}\n" for line in lines))
    evaluation = zero_shot(tmp_path / "mirror", tasks=["arc_easy"])

    def looked_at():
        evaluation.check()
        evaluation.prepare(None)

    with pytest.raises(UserError, match=said):
        looked_at()


def test_examples_need_a_split_that_is_not_scored(tmp_path):
    write(tmp_path / "mirror", "arc_easy", ARC)
    with pytest.raises(UserError, match=r"num_fewshot=2: a arc_easy/train\.jsonl for the examples"):
        zero_shot(tmp_path / "mirror", tasks=["arc_easy"], num_fewshot=2).check()
    write(tmp_path / "mirror", "arc_easy", ARC, split="train")
    zero_shot(tmp_path / "mirror", tasks=["arc_easy"], num_fewshot=2).check()


def test_messages_name_the_key_that_users_set(tmp_path):
    with pytest.raises(UserError, match=r"^paths\.mirror=.*no arc_easy/test\.jsonl"), under("eval"):
        zero_shot(tmp_path, tasks=["arc_easy"]).check()
    with pytest.raises(UserError, match=r"^paths\.mirror=null: the hub cannot be reached"), under("eval"):
        ZeroShot(tasks=["arc_easy"]).check()
