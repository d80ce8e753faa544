"""The card says what the record says, and the hub's library reads it as it was meant."""

import ast
import copy
import json
import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from elsa.files import flattened
from elsa.publish.card import METHODS, card, eval_results
from elsa.publish.folder import public
from tests.publish.abouts import EXPORT, PAIRS, RECORDS, about, full_record, record, score, zero_shot
from tests.record.records import wrote

ROOT = Path(__file__).parents[2]
OWN_WORDS = {"2510.01650", "95", "acme/base-90", "base-90", "apache-2.0", "import", "README", "4-grams"}
INT8 = EXPORT | {"dtype": "int8", "name": "sparse-int8"}


def text_of(given):
    return card(given).text


def numbers_of(tree):
    if isinstance(tree, dict | list):
        for each in tree.values() if isinstance(tree, dict) else tree:
            yield from numbers_of(each)
    elif isinstance(tree, int | float) and not isinstance(tree, bool):
        yield tree


def words_of(text):
    return [word.strip(".,:;*`'\"") for word in re.split(r"[\s|()\[\]{}/]+", text)]


def renditions(number):
    yield from (str(number), f"{number:,}", f"{number:,.1f}", f"{number:,.2f}", f"{number:.3f}", f"{number:+.3f}")
    yield from (f"{number:.1%}", f"{number:+.1f}", f"{100 * number:+.1f}")
    yield from (f"{number:.4f}", f"{number:.4g}", f"{number:.4%}", f"{number / 2**30:.2f}", str(round(number, 4)))


def not_of_the_record(given, text):
    """Words of a text with a digit that are neither a number of the record, formatted, nor a word in it."""
    held = [given.record, given.export]
    known = {each for number in numbers_of(held) for each in renditions(number)} | OWN_WORDS
    known |= {paper for _, paper in METHODS.values() if paper} | set(words_of(json.dumps(held)))
    known |= {word[:12] for word in known if len(word) > 12}  # revisions
    known |= set(flattened(given.record["settings"]))
    return [word for word in words_of(text) if re.search(r"\d", word) and word not in known]


def without_code(text):
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def in_turn():
    """A set, another one, and the first in another way."""
    found = record(perplexity={"held_out": score(31.0625, windows=16), "c4": score(35.0812)})
    found["evaluations"].append({"key": "l", "config": None, "perplexity": {"held_out": score()}})
    return found


def written():
    """Scores of generation, beside the dense model's."""
    kinds = ("generation", "generation_against_dense")
    return record(**{kind: wrote()["evaluations"][0][kind] for kind in kinds})


ABOUTS = {
    "full": lambda: about(full_record(limit=100)),
    "scored itself": lambda: about(record(perplexity={"held_out": score()}), EXPORT | {
        "evaluations": [{"perplexity": {"held_out": score(27.125)}, "config": None}]}),
    "in turn": lambda: about(in_turn()),
    "written": lambda: about(written()),
    "int8": lambda: about(record(perplexity={"held_out": score()}), INT8),
    "plain": lambda: about(record(), None, sparse=False),
    "dense": lambda: about(record("tiny-dense+finetuned-ac8f59f5a73d"), None, sparse=False),
} | {path.stem: lambda path=path: about(record(path.stem)) for path in sorted(RECORDS.glob("*.json"))}  # fmt: skip


@pytest.mark.parametrize("name", ABOUTS)
def test_every_number_on_it_stands_in_the_record_or_the_export(name):
    given = ABOUTS[name]()
    made = card(given)
    assert not_of_the_record(given, without_code(made.text)) == []
    held = list(numbers_of([given.record, given.export]))
    for result in made.data.eval_results or []:
        assert result.metric_value in [round(number, 4) for number in held]
        assert all(number in held for number in numbers_of(result.metric_args))
        assert not_of_the_record(given, result.metric_name.replace("-shot", "")) == []


def test_the_search_for_numbers_finds_one_that_is_made_up():
    given = about(full_record())
    text = without_code(text_of(given))
    assert not_of_the_record(given, text.replace("26.86", "26.87")) == ["26.87"]
    assert not_of_the_record(given, text.replace("1,519,920", "1,519,921")) == ["1,519,921"]


@pytest.mark.parametrize("name", ABOUTS)
def test_the_library_reads_it_back_as_it_was(name, tmp_path):
    given = ABOUTS[name]()
    made = card(given)
    (tmp_path / "README.md").write_text(str(made))
    read = ModelCard.load(tmp_path / "README.md")
    assert read.data.to_dict() == made.data.to_dict()
    assert read.text == made.text
    assert str(read) == str(made)
    results = eval_results(given)
    if results:
        assert read.data.eval_results == results
        again = model_index_to_eval_results(eval_results_to_model_index("base-90", results))
        assert again == ("base-90", results)
        assert read.data.model_name == "base-90"
    else:
        assert "model-index" not in str(read)


def test_its_header_is_what_the_hub_searches_by():
    data = card(about(full_record())).data
    assert data.base_model == "acme/base"
    assert (data.license, data.library_name, data.pipeline_tag) == ("apache-2.0", "transformers", "text-generation")
    assert data.tags == ["pruning", "sparse", "elsa"]
    assert data.metrics == ["acc_norm", "accuracy", "brier", "perplexity"]
    assert data.datasets is None
    assert card(about(record("tiny-wanda-0.9-3c7dc4487ad8"))).data.tags == ["pruning", "sparse", "elsa", "wanda"]
    own = full_record()
    own["config"]["data"] = {"_target_": "elsa.data.sources.HubText", "repository": "allenai/c4"}
    assert card(about(own)).data.datasets == ["allenai/c4"]
    own["config"]["data"] = {"_target_": "elsa.data.streams.HubStream", "name": "HuggingFaceFW/fineweb-edu"}
    assert card(about(own)).data.datasets == ["HuggingFaceFW/fineweb-edu"]
    own["data_sha256"] = {}
    assert card(about(own)).data.datasets is None


def test_the_index_holds_each_score_with_its_protocol_and_the_last_of_two():
    found = eval_results(about(full_record(limit=100), EXPORT | {"dtype": "float32"}))
    results = {(each.dataset_type, each.metric_type, each.metric_args.get("windows")): each for each in found}
    assert len(results) == len(found)
    assert {key: each.metric_value for key, each in results.items()} == {
        ("held_out", "perplexity", 128): 26.8571, ("few", "perplexity", 16): 31.0625,
        ("allenai/c4", "perplexity", 256): 35.0812,
        ("arc_easy", "accuracy", None): 0.4325, ("arc_easy", "acc_norm", None): 0.4112,
        ("arc_easy", "brier", None): 0.7712, ("boolq", "accuracy", None): 0.6178,
    }  # fmt: skip
    c4 = results["allenai/c4", "perplexity", 256]
    assert c4.metric_name == "perplexity of c4 (256 windows of 2048 tokens, official formula)"
    assert (c4.dataset_name, c4.dataset_split) == ("allenai/c4", "test")
    assert c4.metric_args == {
        "windows": 256, "length": 2048, "targets": 32640, "split": "test", "formula": "official", "autocast": "none",
        "data_sha256": "ab" * 32, "draw": "first",
    }  # fmt: skip
    arc = results["arc_easy", "accuracy", None]
    assert arc.metric_name == "acc (3-shot, lm-eval 0.4.13, the first 100 documents only)"
    assert arc.metric_args == {"num_fewshot": 3, "n": 237, "data_sha256": "ab" * 32, "limit": 100}


def test_tables_of_scores_show_how_they_were_made():
    text = text_of(about(full_record()))
    assert "| held_out | Python standard library | 26.86 | test | 128 × 256 |" in text
    assert "| c4 | allenai/c4, en/c4-validation.json.gz at 1588ec454efa | 35.08 | test | 256 × 2,048 | first |" in text
    assert "| inf | test |" in text
    assert "99.12" not in text
    assert text.count("Scored by lm-eval") == 1
    assert "| windows drawn |" in text
    assert "| windows drawn |" not in text_of(about(record(perplexity={"held_out": score()})))
    assert "`official`: " in text
    assert "`standard`: " in text
    assert (
        "| arc_easy | 0.433 ± 0.010 | 0.411 ± 0.010 | 3 | 237 | -0.123 [-0.188, -0.059] | 41, 17 | brier 0.7712 |"
        in text
    )
    assert "| boolq | 0.618 ± 0.010 |  | 3 | 237 |  |  |  |" in text
    assert "lm-eval 0.4.13 in float32, ± standard error; acc 0.5251 on average" in text
    assert "holds no score of the dense model" not in text
    assert "holds no score of the dense model" in text_of(about(record()))


def test_a_limit_is_said_aloud():
    assert "imited" not in text_of(about(full_record()))
    limited = text_of(about(full_record(limit=100)))
    assert "**Limited: only the first 100 documents of each task were scored.**" in limited
    assert "The accuracies are limited" in limited


def test_scores_of_before_the_cast_are_called_that():
    cast, itself, same = (ABOUTS["int8"](), ABOUTS["scored itself"](), about(record(), EXPORT | {"dtype": "float32"}))
    assert "**Of the model as the run saved it in float32, before its values were cast to int8.**" in text_of(cast)
    assert "The scores are of the values before the cast to int8." in text_of(cast)
    assert eval_results(cast) == []
    rounded = about(record(perplexity={"held_out": score()}))
    assert "before the cast to bfloat16" in eval_results(rounded)[0].metric_name
    assert "Of the values in this repository, bfloat16." in text_of(itself)
    assert [(each.metric_value, "cast" in each.metric_name) for each in eval_results(itself)] == [(27.125, False)]
    unknown = record() | {"dtype": None}
    assert "as the run saved it, before its values were cast to bfloat16" in text_of(about(unknown))
    assert "before" not in text_of(same).split("## Scores")[1].split("##")[0]
    assert "before the cast" not in eval_results(same)[0].metric_name


def test_it_says_what_was_counted_asked_and_spent():
    text = text_of(about(record()))
    found = record()
    assert f"{found['sparsity']['zeros']:,} of its {found['sparsity']['numel']:,} prunable weights" in text
    assert "90.0004% as counted in the saved file, 90% as asked" in text
    assert "Prunable are 2,359,296 of the 2,359,296 weights of its decoder blocks." in text
    del found["coverage"]
    assert "Prunable are" not in text_of(about(found))
    for row in (
        "| this repository | 1,519,920 |  |", "| the same values, dense in bfloat16 | 5,510,016 | 0.276 |",
        "| the model as the run saved it | 11,026,008 | 0.138 |", "| training tokens | 524,288 |", "| seed | 0 |",
        "| peak memory | 0.60 GiB |", "| seconds of pruning, training included | 60.9 |", "| `method.interval` | 32 |",
        "| allocation | uniform |", "| pattern | 90% |", "| `training.steps` | 1024 |",
    ):  # fmt: skip
        assert row in text
    assert "left 2,123,399 of 2,359,296 prunable weights zero, which were 2,123,376 before" in text
    assert f"torch {found['environment']['libraries']['torch']}" in text
    assert "| calibration tokens | 32,768 |" in text_of(about(record("tiny-wanda-0.9-3c7dc4487ad8")))


def test_it_says_how_to_load_it_and_what_cannot():
    sparse, plain = text_of(about(record())), text_of(about(record(), None, sparse=False))
    for text in (sparse, plain):
        code = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
        imports = [node.names[0].name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Import)]
        assert imports == (["elsa.export"] if text is sparse else [])
        assert 'AutoModelForCausalLM.from_pretrained("acme/base-90")' in code
    assert "without `import elsa.export` loading is an error" in sparse
    assert "## Size" not in plain
    assert "elsa.export" not in plain
    assert "as large and as slow as a dense model" in plain
    for text in (sparse, plain):
        assert "Measured was only perplexity on the sets above: not the quality of what it writes" in text
        assert "safety" in text


def test_it_says_how_to_make_it_again():
    commands = re.search(r"```bash\n(.*?)```", text_of(about(record())), re.DOTALL)[1].splitlines()
    assert commands == [
        "hf download acme/base-90 record.json --local-dir .", "elsa reproduce record=record.json",
        "elsa export checkpoint=outputs/reproductions/runs/<run> export=sparse dtype=bfloat16",
    ]  # fmt: skip
    assert "elsa export" not in text_of(about(record(), None, sparse=False))
    local = record(model={"path": "/data/models/own"}, perplexity={"mine": score()})
    text = text_of(about(public(local, "acme/base")))
    assert "have to lie in the current folder: `own`, `own.jsonl`, `own_test.jsonl`, `text.txt`." in text
    assert "current folder" not in text_of(about(record()))


def test_whose_word_the_base_model_is():
    assert "stated by who published this" not in text_of(about(record()))
    assert "The record knows the base model as `tiny`" in text_of(about(record(), base_model="acme/other"))


@pytest.mark.parametrize(
    ("label", "start", "said"),
    [
        ("sparsegpt+finetuned", None, "`sparsegpt` (prunes column by column and repairs the rest), then `finetuned` ("),
        ("elsa_plus", {"_target_": "elsa.method.alps.Alps"}, "by `alps` (ADMM on each layer, then conjugate gradients"),
        ("theirs", None, "pruned by `theirs` with"),
    ],
)  # fmt: skip
def test_methods_are_named_in_their_order(label, start, said):
    found = record() | {"method": label}
    found["config"]["method"] = {"start": start}
    made = card(about(found))
    assert said in made.text
    names = label.split("+") if start is None else ["alps", "elsa_plus"]
    assert [tag for tag in made.data.tags if tag not in ("pruning", "sparse", "elsa")] == names
    papers = [METHODS[name][1] for name in names if name in METHODS and METHODS[name][1]]
    assert re.findall(r"arxiv.org/abs/([\d.]+)", made.text) == papers
    assert ("## Papers" in made.text) == bool(papers)


def test_what_was_not_pruned_is_not_called_so():
    made = card(ABOUTS["dense"]())
    assert made.data.tags == ["elsa", "finetuned"]
    assert "trained on but not pruned" in made.text
    assert "zeros are stored" not in made.text


def test_papers_are_those_of_the_guide():
    guide = (ROOT / "docs/guides/methods.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|.*\| (?:arXiv ([\d.]+) |\[.*\) )?\|$", guide, re.MULTILINE)
    known = {name: paper or None for name, paper in rows if name in METHODS}
    assert known == {name: paper for name, (_, paper) in METHODS.items()}


def test_what_it_writes_stands_beside_the_dense_model():
    given = about(written())
    text = text_of(given)
    shares = "(-12.5 [-50.0, +25.0])"
    cells = ["gsm8k", "0.500 ± 0.100 (-0.125 [-0.500, +0.250])", "120.5 (+20.5 [-1.0, +42.0])", f"25.0% {shares}"]
    cells += [f"12.5% {shares}", "2", "5", "exact_match,strict-match 0.5 (acc); bleu,none 31.25"]
    assert f"| {' | '.join(cells)} |" in text
    assert "Measured was only answers to the questions above" in text
    assert "holds no score of the dense model" not in text
    strict, bleu = eval_results(about(written(), None, sparse=False))
    assert (strict.metric_type, strict.metric_value, bleu.metric_value) == ("exact_match", 0.5, 31.25)
    assert strict.metric_name == "exact_match,strict-match (5-shot, at most 256 tokens, lm-eval 0.4)"
    limited = written()
    limited["evaluations"][0]["generation"]["limit"] = 7
    assert "**Limited: only the first 7 documents" in text_of(about(limited))


def test_words_of_a_record_end_no_cell_and_are_no_html():
    found = record(perplexity={"a|b<script>": score()}, zero_shot=zero_shot(), zero_shot_against_dense=PAIRS)
    found["settings"]["method"]["odd"] = "one|two\nthree"
    text = text_of(about(found))
    assert "| a\\|b&lt;script> |" in text
    assert "| one\\|two three |" in text


def test_the_record_is_left_as_it_was():
    given = about(full_record())
    before = copy.deepcopy([given.record, given.export])
    card(given)
    assert [given.record, given.export] == before
