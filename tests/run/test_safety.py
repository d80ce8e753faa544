"""Nothing that is loaded is executed, and no key of the environment gets into a file."""

import ast
import pickle
from contextlib import suppress
from pathlib import Path

import pytest

import elsa as package
from tests.run.runs import of

SECRETS = {
    "WANDB_API_KEY": "5" * 40,
    "HF_TOKEN": "hf_secretsecretsecret",
    "AWS_SECRET_ACCESS_KEY": "awssecretawssecret",
}
TRAINING = [
    "method=elsa",
    "training.steps=4",
    "training.batch_size=2",
    "training.learning_rate=1e-3",
    "method.interval=2",
]


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.parametrize("tracker", ["jsonl", "wandb", "tensorboard"])
def test_no_key_of_the_environment_gets_into_a_file(elsa, monkeypatch, tracker):
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    code, _, err = elsa(*TRAINING, f"tracker={tracker}", "checkpoint.every_minutes=0")
    assert code == 0, err
    assert elsa("report", model=False)[0] == 0
    files = [path for path in Path("outputs").rglob("*") if path.is_file()]
    assert len(files) > 10
    for path in files:
        content = path.read_bytes()
        assert not [name for name, value in SECRETS.items() if value.encode() in content], path


class Planted:
    """Makes a file when it is unpickled."""

    def __reduce__(self):
        return (open, ("executed", "w"))


def test_a_pickle_in_the_place_of_anything_that_is_loaded_is_not_executed(elsa):
    code, _, err = elsa(*TRAINING)
    assert code == 0, err
    folder, _ = of("elsa")
    planted = pickle.dumps(Planted())
    pickle.loads(planted).close()
    Path("executed").unlink()
    cached = [path for path in Path("cache").rglob("*") if path.is_file()]
    assert cached
    for path in cached:
        path.write_bytes(planted)
    (folder / "model/pytorch_model.bin").write_bytes(planted)
    for name in ("result.json", "pruned.json", "model/model.safetensors", "model/config.json", "metrics.jsonl"):
        (folder / name).write_bytes(planted)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints/step-00000002.pt").write_bytes(planted)
    for arguments in ([*TRAINING], ["evaluate", f"checkpoint={folder}"], ["report"], ["reproduce", f"record={folder}"]):
        with_model = arguments == TRAINING
        with suppress(ValueError, OSError):  # what a damaged cache or model is answered with is looked at elsewhere
            elsa(*arguments, model=with_model)
        (folder / "result.json").unlink(missing_ok=True)
    assert not Path("executed").exists()


def calls():
    """(file, call) of every call in the package."""
    for path in sorted(Path(package.__file__).parent.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                yield path.name, ast.unparse(node.func), {key.arg: ast.unparse(key.value) for key in node.keywords}


def test_every_loader_is_one_that_executes_nothing():
    found = list(calls())
    loads = [(file, keys) for file, name, keys in found if name == "torch.load"]
    assert loads
    assert [file for file, keys in loads if keys.get("weights_only") != "True"] == []
    loads = [(file, keys) for file, name, keys in found if name == "np.load"]
    assert [file for file, keys in loads if "allow_pickle" in keys] == []
    forbidden = {"eval", "exec", "pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "yaml.full_load"}
    among_ranks = ("ranks.py", "pickle.loads")  # what processes of one run tell each other; it never lies on disk
    assert [(file, name) for file, name, _ in found if name in forbidden and (file, name) != among_ranks] == []
    remote = [
        keys.get("trust_remote_code") for _, name, keys in found if name.startswith("Auto") and name.endswith("d")
    ]
    assert "True" not in remote
    assert [file for file, _, keys in found if keys.get("shell") == "True"] == []
