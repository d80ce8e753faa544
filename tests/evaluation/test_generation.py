"""GSM8K as lm-eval has it, on questions that the tests write."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch

from elsa.data.repetition import repetition_share
from elsa.data.windows import WindowReader
from elsa.distributed.ranks import Ranks
from elsa.errors import UserError, under
from elsa.evaluation.answers import Answers
from elsa.evaluation.base import Subject, paired, summary_of
from elsa.evaluation.generation import Generation
from elsa.evaluation.tasks import definition_file, expanded
from tests.conftest import random_model
from tests.evaluation.test_zero_shot import write

LIMIT = 6
# lm-eval reads an answer without a number as "[invalid]"
ROWS = [{"question": f"cat {i}?", "answer": f"#### {'[invalid]' if i % 3 else i}"} for i in range(8)]
STRICT, FLEXIBLE = "exact_match,strict-match", "exact_match,flexible-extract"
CHAT = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<a>{% endif %}"


@pytest.fixture
def mirror(tmp_path):
    write(tmp_path / "mirror", "gsm8k", ROWS, split="test")
    write(tmp_path / "mirror", "gsm8k", [{"question": f"q{i}", "answer": f"#### {i}"} for i in range(3)], split="train")
    return tmp_path / "mirror"


@pytest.fixture
def ending(tokenizer):
    """A model that ends some of its answers within `LIMIT` tokens: where it would else have said a certain one."""
    model = random_model("llama")
    fourth = greedy(model, tokenizer, prompt_of(ROWS[1]))[0][3]
    with torch.no_grad():
        model.lm_head.weight[tokenizer.eos_token_id] = 1.1 * model.lm_head.weight[fourth]
    model.generation_config.eos_token_id = tokenizer.eos_token_id
    return model


def prompt_of(row):
    return f"Question: {row['question']}\nAnswer:"


def generation(mirror, **changes):
    settings = {"tasks": ["gsm8k"], "num_fewshot": 0, "max_new_tokens": LIMIT, "batch_size": 3, "mirror": str(mirror)}
    return Generation(**settings | changes)


def score(evaluation, model, tokenizer, tmp_path):
    evaluation.check()
    prepared = evaluation.prepare(WindowReader(tokenizer=tokenizer, cache=tmp_path, positions=64))
    subject = Subject(model=model, tokenizer=tokenizer, cache=tmp_path / "cache")
    return evaluation.evaluate(subject, prepared)["generation"]


def greedy(model, tokenizer, prompt):
    """Answer by the definition, without a batch and without a cache."""
    ids = list(tokenizer(prompt)["input_ids"])
    start = len(ids)
    while len(ids) < start + LIMIT:
        with torch.no_grad():
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] == tokenizer.eos_token_id:
            return ids[start:-1], False
    return ids[start:], True


def of_lm_eval(mirror, model, tokenizer, folder, **options):
    """Its own results, without a line of ours."""
    import lm_eval
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    files = {split: str(mirror / f"gsm8k/{split}.jsonl") for split in ("train", "test")}
    content = {"include": str(definition_file("gsm8k")), "task": "gsm8k", "dataset_path": "json", "dataset_name": None}
    folder.mkdir()
    (folder / "gsm8k.yaml").write_text(json.dumps(content | {"dataset_kwargs": {"data_files": files}}))
    return lm_eval.simple_evaluate(
        HFLM(pretrained=model, tokenizer=tokenizer, batch_size=3), tasks=["gsm8k"],
        task_manager=TaskManager(include_path=str(folder), include_defaults=False), **options,
    )["results"]["gsm8k"]  # fmt: skip


@pytest.mark.parametrize("shots", [0, 1])
def test_scores_are_those_of_lm_eval_itself(mirror, ending, tokenizer, tmp_path, shots):
    task = score(generation(mirror, num_fewshot=shots, limit=7), ending, tokenizer, tmp_path)["tasks"]["gsm8k"]
    options = {"num_fewshot": shots, "limit": 7, "gen_kwargs": {"max_gen_toks": LIMIT}}
    theirs = of_lm_eval(mirror, ending, tokenizer, tmp_path / "yaml", **options)
    for key in (STRICT, FLEXIBLE):
        assert task["metrics"][key]["value"] == theirs[key]
        assert task["metrics"][key]["stderr"] == pytest.approx(theirs[key.replace(",", "_stderr,")])
    assert 0 < theirs[STRICT] < 1
    assert (task["accuracy"], task["acc"]) == (STRICT, theirs[STRICT])
    assert task["acc_stderr"] == task["metrics"][STRICT]["stderr"]
    assert (task["n"], task["num_fewshot"], task["max_new_tokens"]) == (7, shots, LIMIT)


def test_length_repetition_and_cut_answers_are_those_of_greedy_decoding(mirror, ending, tokenizer, tmp_path):
    found = score(generation(mirror), ending, tokenizer, tmp_path)
    answers = [greedy(ending, tokenizer, prompt_of(row)) for row in ROWS]
    items, task = found["items"]["gsm8k"], found["tasks"]["gsm8k"]
    assert items["tokens"] == [len(ids) for ids, _ in answers]
    assert items["cut"] == [int(cut) for _, cut in answers]
    assert 0 < sum(items["cut"]) < len(ROWS), "some answers end and some do not"
    assert items["repetition"] == pytest.approx([repetition_share(ids) for ids, _ in answers])
    for measure in ("tokens", "repetition", "cut", "acc"):
        assert task[measure] == pytest.approx(sum(items[measure]) / len(ROWS))


def read(tokenizer, row, text, limit=LIMIT):
    answers = Answers(tokenizer, {0})
    answers.wrote([row], limit)
    answers.add_partial("generate_until", ("p", {}), text)
    (answer,) = answers.to({"arguments": [("p", {})], "resps": [[text]]})
    return len(answer.ids), answer.cut


def test_an_answer_ends_where_lm_eval_ends_its_text(tokenizer):
    cat, end = tokenizer("the cat")["input_ids"], tokenizer.eos_token_id
    whole = tokenizer("the cat sat on")["input_ids"]
    assert read(tokenizer, whole, "the cat sat on", len(whole)) == (len(whole), True)
    assert read(tokenizer, whole, "the cat", len(whole)) == (len(cat), False), "a stop, and the batch went on"
    assert read(tokenizer, [*cat, end, end], "the cat", len(cat) + 2) == (len(cat), False), "an end mark and padding"
    assert read(tokenizer, cat, "the cat", len(cat) + 1) == (len(cat), False), "the batch ended before the limit"
    assert read(tokenizer, [end], "", 1) == (0, False)
    assert read(tokenizer, [*cat, 1, end], "the cat", 9) == (len(cat) + 1, False), "a mark without text is a token"
    assert read(tokenizer, [1, 1, 1], "", 3) == (3, True), "tokens without text are an answer too"


def test_answers_to_the_same_prompt_are_given_out_in_order(tokenizer):
    answers, (one, two) = Answers(tokenizer, {0}), (tokenizer(text)["input_ids"] for text in ("cat", "the mat"))
    answers.wrote([one, two], LIMIT)
    for text in ("cat", "the mat"):
        answers.add_partial("generate_until", ("p", {}), text)
    found = answers.to({"arguments": [("p", {})], "resps": [["cat", "the mat"]]})
    assert [answer.ids for answer in found] == [one, two]


def test_every_measure_is_paired_with_the_dense_model(mirror, llama, ending, tokenizer, tmp_path):
    dense, pruned = (score(generation(mirror), model, tokenizer, tmp_path) for model in (llama, ending))
    found = paired(dense, pruned)["gsm8k"]
    assert found.keys() == {"acc", "tokens", "repetition", "cut"}
    changes = [b - a for a, b in zip(*(each["items"]["gsm8k"]["tokens"] for each in (dense, pruned)), strict=True)]
    mean, reach = sum(changes) / 8, 1.96 * torch.tensor(changes).double().std().item() / 8**0.5
    assert mean < -1, "lengths are no shares"
    expected = {"difference": mean, "low": pytest.approx(mean - reach), "high": pytest.approx(mean + reach), "n": 8}
    assert found["tokens"] == expected
    assert found["cut"]["low"] >= -1
    assert {"lost", "gained"} <= found["acc"].keys()


def test_scores_are_kept_by_all_that_decides_them(mirror, tokenizer, tmp_path):
    tokenizer, calls = copy.deepcopy(tokenizer), []

    def cost(**changes):
        model = random_model("llama")
        model.register_forward_hook(lambda *_: calls.append(1))
        before = len(calls)
        score(generation(mirror, num_fewshot=1, **changes), model, tokenizer, tmp_path)
        return len(calls) - before

    assert cost() > 0
    tokenizer(["cat", "the mat"], padding=True)  # which it remembers
    assert cost() == 0
    assert cost(max_new_tokens=2) > 0
    assert cost(system_instruction="s") > 0
    write(mirror, "gsm8k", [{"question": "q", "answer": "#### 1"}] * 2, split="train")
    assert cost() > 0, "other examples"
    tokenizer.chat_template = CHAT
    assert cost(apply_chat_template=True) > 0
    assert cost(apply_chat_template=True) == 0
    tokenizer.chat_template = CHAT.replace("<a>", "<b>")
    assert cost(apply_chat_template=True) > 0


def test_the_prompt_is_lm_evals_in_the_chat_template(mirror, llama, tokenizer, tmp_path, monkeypatch):
    tokenizer, prompts = copy.deepcopy(tokenizer), []
    tokenizer.chat_template = CHAT
    monkeypatch.setattr(Answers, "add_partial", lambda self, kind, request, text: prompts.append(request[0]))
    monkeypatch.setattr(Answers, "to", lambda self, sample: [SimpleNamespace(ids=[1], cut=False)])
    how = {"apply_chat_template": True, "system_instruction": "Be brief.", "num_fewshot": 1, "limit": 1}
    found = score(generation(mirror, **how), llama, tokenizer, tmp_path)
    assert prompts[0].startswith("<system>Be brief.<user>Question: q")
    assert prompts[0].endswith("<user>Question: cat 0?\nAnswer:<a>")
    assert prompts[0].count("<assistant>#### ") == 1
    assert found["settings"] == {
        "apply_chat_template": True, "fewshot_as_multiturn": True, "system_instruction": "Be brief.", "batch_size": 3
    }  # fmt: skip
    score(generation(mirror, **how | {"fewshot_as_multiturn": False}), llama, tokenizer, tmp_path)
    assert "<assistant>" not in prompts[1]


def test_a_task_has_its_own_examples_and_limit(mirror, llama, tokenizer, tmp_path, caplog):
    llama.config.max_position_embeddings = 400
    write(mirror, "gsm8k", [{"question": "q", "answer": f"#### {i}"} for i in range(6)], split="train")
    asked = generation(mirror, num_fewshot=None, max_new_tokens=None, limit=1)
    caplog.set_level("INFO", "elsa")
    prepared = asked.prepare(WindowReader(tokenizer=tokenizer, cache=tmp_path, positions=400))
    subject = Subject(model=llama, tokenizer=tokenizer, cache=tmp_path / "cache")
    task = asked.evaluate(subject, prepared)["generation"]["tasks"]["gsm8k"]
    assert (task["num_fewshot"], task["max_new_tokens"], task["tokens"]) == (5, 256, 256)
    assert "generation on the first 1 documents of each task only: limited scores" in caplog.text


def test_prompts_that_the_model_cannot_hold_are_counted_and_said(mirror, llama, tokenizer, tmp_path, caplog):
    write(mirror, "gsm8k", [ROWS[0], {"question": "the cat " * 50, "answer": "#### 1"}], split="test")
    found = score(generation(mirror), llama, tokenizer, tmp_path)
    assert found["tasks"]["gsm8k"]["cut_prompts"] == 1
    assert "gsm8k: 1 prompts are too long for the model" in caplog.text


class Second(Ranks):
    """The second of two, that hears what the first has scored."""

    def __init__(self, theirs):
        super().__init__(1, 2)
        self._theirs = theirs

    def gather(self, thing):
        return [self._theirs, thing]


def test_tasks_are_dealt_to_the_ranks(mirror, llama, tokenizer, tmp_path):
    write(mirror, "gsm8k_cot", ROWS[:2], split="test")
    asked = generation(mirror, tasks=["gsm8k", "gsm8k_cot"])
    alone = score(asked, llama, tokenizer, tmp_path)
    prepared = asked.prepare(WindowReader(tokenizer=tokenizer, cache=tmp_path))
    theirs = {"gsm8k": {"scores": alone["tasks"]["gsm8k"], "items": alone["items"]["gsm8k"]}}
    subject = Subject(model=llama, tokenizer=tokenizer, cache=tmp_path / "other", ranks=Second(theirs))
    assert asked.evaluate(subject, prepared)["generation"] == alone
    assert [path.name.rpartition("-")[0] for path in (tmp_path / "other/generation").iterdir()] == ["gsm8k_cot"]


def test_trackers_are_told_accuracy_metrics_and_measures(mirror, llama, tokenizer, tmp_path):
    found = score(generation(mirror), llama, tokenizer, tmp_path)
    task, summary = found["tasks"]["gsm8k"], summary_of({"generation": found})
    assert summary["generation/gsm8k"] == summary["generation/average"] == task["acc"]
    assert summary["generation/gsm8k/tokens"] == task["tokens"]
    assert summary[f"generation/gsm8k/{FLEXIBLE}"] == task["metrics"][FLEXIBLE]["value"]


def test_each_evaluation_names_the_other():
    with pytest.raises(UserError, match=r"tasks=gsm8k: it is scored by generate_until; .*; eval=generation takes it$"):
        expanded(["gsm8k"], "zero_shot")
    with pytest.raises(UserError, match=r"tasks=rte: it is scored by multiple_choice; .*; eval=zero_shot takes it$"):
        expanded(["rte"], "generation")


def test_what_is_missing_is_one_line(mirror, llama, tokenizer, tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"^max_new_tokens=0: at least 1, or null for the task's own$"):
        generation(mirror, max_new_tokens=0)
    with pytest.raises(UserError, match=r"^eval\.apply_chat_template=true: this tokenizer has no chat template$"):
        score(generation(mirror, apply_chat_template=True), llama, tokenizer, tmp_path)
    broken = copy.deepcopy(tokenizer)
    broken.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(UserError, match=r"^eval\.apply_chat_template=true: .*template fails: no$"):
        score(generation(mirror, apply_chat_template=True), llama, broken, tmp_path)
    with pytest.raises(UserError, match=r"^eval\.max_new_tokens=64: gsm8k needs room .* takes 64 tokens in all$"):
        score(generation(mirror, max_new_tokens=64), llama, tokenizer, tmp_path)
    with pytest.raises(UserError, match=r"^eval\.max_new_tokens=256: gsm8k"):
        score(generation(mirror, max_new_tokens=None), llama, tokenizer, tmp_path)
    with pytest.raises(UserError, match=r"no gsm8k/test\.jsonl there.*elsa fetch copies it"), under("eval"):
        generation(tmp_path / "nowhere").check()
    unsafe = {"gsm8k": SimpleNamespace(UNSAFE_CODE=True)}
    monkeypatch.setattr("elsa.evaluation.harness.load_tasks", lambda names, mirror: unsafe)
    with pytest.raises(UserError, match=r"^eval\.tasks=gsm8k: it runs the code that a model writes$"):
        score(generation(mirror), llama, tokenizer, tmp_path)


def test_own_examples_need_a_split_that_is_not_scored(mirror):
    (mirror / "gsm8k/train.jsonl").unlink()
    with pytest.raises(UserError, match=r"num_fewshot=5: a gsm8k/train\.jsonl for the examples"):
        generation(mirror, num_fewshot=None).check()
    generation(mirror, num_fewshot=0).check()
    write(mirror, "gsm8k_cot", ROWS, split="test")
    generation(mirror, tasks=["gsm8k_cot"], num_fewshot=None).check()  # whose examples stand in its definition
