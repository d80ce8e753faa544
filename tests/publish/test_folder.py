"""The published folder: a model's files and no others, and nothing private in them."""

import json

import pytest

from elsa.errors import UserError
from elsa.publish.folder import check_export, public, stage
from elsa.record.record import parsed
from tests.publish.abouts import EXPORT, about, full_record, record, score, zero_shot

STAYS = (
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja",
)  # fmt: skip
PRIVATE = ("annkathrin", "home", "corpora", "secret", "/data", "C:", "own\\")


@pytest.fixture
def model(tmp_path):
    """A folder that holds a model's files and many others."""
    folder = tmp_path / "model"
    folder.mkdir()
    for name in STAYS:
        (folder / name).write_text(json.dumps({"of": name}) if name.endswith(".json") else name)
    (folder / "model.safetensors").write_bytes(b"weights")
    for name in (
        "optimizer.pt", ".lock", "optimizer.safetensors", "pytorch_model.bin", "notes.txt", "README.md",
        "trainer_state.json", "model.safetensors.index.json", "events.out.tfevents.1", "elsa.safetensors",
    ):  # fmt: skip
        (folder / name).write_text("other")
    (folder / "checkpoint-100").mkdir()
    (folder / "checkpoint-100/model.safetensors").write_text("other")
    (folder / "tokenizer_old.json").mkdir()
    return folder


def test_only_what_belongs_to_a_model_is_taken(model, tmp_path):
    left = stage(model, tmp_path / "to", about(record()))
    assert {path.name for path in (tmp_path / "to").iterdir()} == {
        *STAYS, "model.safetensors", "README.md", "record.json", "export.json",
    }  # fmt: skip
    assert left == sorted([
        "optimizer.pt", ".lock", "optimizer.safetensors", "pytorch_model.bin", "notes.txt", "README.md",
        "trainer_state.json", "model.safetensors.index.json", "events.out.tfevents.1", "elsa.safetensors",
        "checkpoint-100/", "tokenizer_old.json/",
    ])  # fmt: skip
    assert (tmp_path / "to/model.safetensors").read_bytes() == b"weights"
    assert (tmp_path / "to/merges.txt").read_text() == "merges.txt"
    assert (tmp_path / "to/README.md").read_text().startswith("---\nbase_model: acme/base\n")
    assert json.loads((tmp_path / "to/export.json").read_text()) == EXPORT
    for name in STAYS:
        assert (tmp_path / "to" / name).read_bytes() == (model / name).read_bytes()


def test_a_model_without_export_and_in_several_files(model, tmp_path):
    (model / "model.safetensors").unlink()
    names = [f"model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name in names:
        (model / name).write_text(name)
    index = {"weight_map": {"a": names[0], "b": names[1]}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    stage(model, tmp_path / "to", about(record(), None, sparse=False))
    kept = {path.name for path in (tmp_path / "to").iterdir()}
    assert kept == {*STAYS, *names, "model.safetensors.index.json", "README.md", "record.json"}
    (model / names[1]).unlink()
    with pytest.raises(UserError, match=r"1 of its 2 files of weights are missing"):
        stage(model, tmp_path / "to", about(record()))


def test_weights_are_linked_if_that_is_asked_for_and_possible(model, tmp_path, monkeypatch):
    def is_same(name):
        return (model / name).samefile(tmp_path / "to" / name)

    stage(model, tmp_path / "to", about(record()), linked=True)
    assert is_same("model.safetensors")
    assert not is_same("tokenizer.json")
    stage(model, tmp_path / "to", about(record()))
    assert not is_same("model.safetensors")

    def refuse(*given):
        raise OSError(18, "another file system")

    monkeypatch.setattr("os.link", refuse)
    stage(model, tmp_path / "to", about(record()), linked=True)
    assert (tmp_path / "to/model.safetensors").read_bytes() == b"weights"


@pytest.mark.parametrize("place", [{}, {"quantization_config": {}}, {"parts": [{"deep": {}}]}])
def test_a_config_with_sparsity_config_is_refused(model, tmp_path, place):
    inner = place.get("quantization_config", place["parts"][0]["deep"] if "parts" in place else place)
    inner["sparsity_config"] = None
    (model / "config.json").write_text(json.dumps(place))
    with pytest.raises(UserError, match="sparsity_config=given: vLLM refuses a model with this key"):
        stage(model, tmp_path / "to", about(record()))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model"]


def test_folders_in_the_files_of_transformers_are_left_out(model, tmp_path):
    config = {"_name_or_path": "/home/annkathrin/secret/llama", "text_config": {"_name_or_path": "acme/base"}}
    config |= {"auto_map": {"AutoConfig": "a/b--c.D"}}
    (model / "config.json").write_text(json.dumps(config))
    tokens = {
        "name_or_path": "C:\\Users\\annkathrin\\llama",
        "special_tokens_map_file": "/home/annkathrin/map.json",
        "é": "</s>",
    }
    (model / "tokenizer_config.json").write_text(json.dumps(tokens))
    stage(model, tmp_path / "to", about(record()))
    written = json.loads((tmp_path / "to/config.json").read_text())
    expected = {"_name_or_path": "llama", "text_config": {"_name_or_path": "acme/base"}, "auto_map": config["auto_map"]}
    assert written == expected
    assert "é" in (tmp_path / "to/tokenizer_config.json").read_text()
    tokens |= {"name_or_path": "llama", "special_tokens_map_file": "map.json"}
    assert json.loads((tmp_path / "to/tokenizer_config.json").read_text()) == tokens


def test_nothing_private_is_in_a_record(model, tmp_path):
    found = record(
        model={"path": "/home/annkathrin/models/llama/"},
        perplexity={"mine": score(), "c4": score()},
        zero_shot=zero_shot(),
    )
    found["environment"] |= {"platform": "Linux-annkathrin-laptop", "hostname": "annkathrin-laptop"}
    found["evaluations"][0]["environment"] = found["environment"]
    found["evaluations"][0]["config"] |= {"mirror": "/data/mirror", "cache": "~/secret"}
    found["config"] |= {
        "paths": {"outputs": "/home/annkathrin/o"}, "tracker": {"project": "secret"},
        "data": {"path": "C:\\own\\ids.safetensors"},
    }  # fmt: skip
    found["settings"]["data"] = {"type": "Text", "train": ["secret/own.jsonl"], "join": " / "}
    stage(model, tmp_path / "to", about(public(found, "acme/base")))
    text = (tmp_path / "to/record.json").read_text() + (tmp_path / "to/README.md").read_text()
    assert [word for word in PRIVATE if word in text] == []
    kept = parsed((tmp_path / "to/record.json").read_text(), "record.json")
    assert kept["config"]["model"]["path"] == "llama"
    assert kept["config"]["data"] == {"path": "ids.safetensors"}
    assert kept["settings"]["data"] == {"type": "Text", "train": ["own.jsonl"], "join": " / "}
    evaluation = kept["evaluations"][0]
    assert evaluation["config"]["mirror"] is evaluation["config"]["cache"] is None
    assert evaluation["config"]["sets"]["mine"]["test"] == ["own_test.jsonl", "text.txt"]
    for environment in (kept["environment"], evaluation["environment"]):
        assert environment == {k: v for k, v in found["environment"].items() if k not in ("platform", "hostname")}


def test_a_record_without_paths_stays_as_it_was_but_for_the_machine():
    found = full_record()
    for each in found["evaluations"]:
        del each["config"]["sets"]["mine"]
    shown = public(found, "acme/base")
    del found["config"]["tracker"], found["environment"]["platform"]
    assert shown == found
    assert shown["config"]["model"]["path"] == "acme/base"
    assert public(found, "acme/other")["config"]["model"]["path"] == "base"


@pytest.mark.parametrize(
    ("change", "key"),
    [({"bytes": {}}, "bytes.total"), ({"ratio": EXPORT["ratio"] | {"of_dense": "x"}}, "ratio.of_dense"),
     ({"zeros": EXPORT["zeros"] | {"after": -1}}, "zeros.after"), ({"files": None}, "files"), ({"dtype": 1}, "dtype")],
)  # fmt: skip
def test_what_is_no_export_is_named(change, key):
    check_export(EXPORT, "export.json")
    with pytest.raises(UserError, match=rf"^export.json: no facts of an export: {key}: "):
        check_export(EXPORT | change, "export.json")
