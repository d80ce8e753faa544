"""Methods of other packages: an installed distribution in a temporary folder, and the program as a user runs it."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.errors import UserError
from elsa.method.registry import added
from tests.run.runs import records

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/guides/add_a_method.md").read_text()
FILES = dict(re.findall(r"^`(\S+)`:\n\n```(?:toml|python|yaml)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL))


def install(site, distribution, entry_points, files):
    """What pip would leave of a distribution in `site`."""
    information = site / f"{distribution}-1.0.dist-info"
    information.mkdir(parents=True)
    (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: 1.0\n")
    lines = [f"{name} = {value}" for name, value in entry_points.items()]
    (information / "entry_points.txt").write_text("\n".join(["[elsa.methods]", *lines, ""]))
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)


@pytest.fixture
def site(tmp_path):
    return tmp_path / "site"


@pytest.fixture
def documented(site):
    """The package of docs/guides/add_a_method.md."""
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    install(site, project["name"], project["entry-points"]["elsa.methods"], FILES)
    return site


@pytest.fixture
def elsa(tmp_path, site, saved_model, corpus):
    """Run `elsa <arguments>` in a process; returns (exit code, stdout, stderr)."""

    def run(*arguments, model=True):
        base = ["model=pretrained", "model.name=small", f"model.path={saved_model}", *corpus] if model else []
        ended = subprocess.run(
            [sys.executable, "-m", "elsa.run.cli", *arguments[:1], *base, *arguments[1:]],
            cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {
                "PYTHONPATH": f"{ROOT}{os.pathsep}{site}", "ELSA_CACHE": str(tmp_path / "cache"), "COLUMNS": "200",
                "OMP_NUM_THREADS": "1",
            },
        )  # fmt: skip
        return ended.returncode, ended.stdout, ended.stderr

    return run


@pytest.fixture
def imported(site, monkeypatch):
    """`site` on the path of this process. Returns what builds the method of a config."""
    monkeypatch.syspath_prepend(str(site))
    added.cache_clear()
    yield lambda *overrides: build(PruneConfig, compose(*overrides)).method
    added.cache_clear()
    for name in [name for name in sys.modules if name.partition(".")[0] == "mine"]:
        del sys.modules[name]


def refused(elsa, *arguments, model=False):
    code, _, err = elsa(*arguments, model=model)
    assert (code, err.count("\n")) == (2, 1), err
    return err.removeprefix("elsa: ").rstrip("\n")


def test_the_guide_shows_a_whole_package():
    assert FILES.keys() == {
        "pyproject.toml", "elsa_ranked/pruning.py", "elsa_ranked/conf/method/ranked.yaml",
    }  # fmt: skip
    (package,) = tomllib.loads(FILES["pyproject.toml"])["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert all(path.startswith(f"{package}/") for path in FILES if path != "pyproject.toml"), "the wheel would lack it"
    assert "docs/guides/add_a_method.md" in (ROOT / "README.md").read_text()


def test_the_method_of_the_guide_is_one_like_the_others(elsa, documented, tmp_path):
    assert re.search(r"method .*, ranked, ", elsa("--help", model=False)[1])
    assert refused(elsa, "method=rankd") == "method=rankd: no such choice; did you mean 'ranked'?"
    code, out, err = elsa("doctor", "method=ranked")
    assert (code, out.endswith("ready\n")) == (0, True), err
    code, _, err = elsa("method=ranked", "sparsity.ratio=0.8", "method.power=1", "+method.calibration_windows=4")
    assert code == 0, err
    (folder, record) = next((f, r) for f, r in records(tmp_path).items() if r["method"] == "ranked")
    assert folder.name.startswith("small-ranked-0.8-")
    assert record["config"]["method"]["power"] == 1
    assert record["sparsity"]["counted"] == pytest.approx(0.8, abs=0.01)


@pytest.mark.slow
def test_another_method_starts_with_it_and_a_sweep_holds_it(elsa, documented, tmp_path):
    few = ["training.steps=4", "training.batch_size=2"]
    code, _, err = elsa("method=finetuned", "method.start=ranked", *few)
    assert code == 0, err
    code, _, err = elsa("-m", "method=magnitude,ranked")
    assert code == 0, err
    assert {record["method"] for record in records(tmp_path).values()} == {
        "dense", "ranked+finetuned", "magnitude", "ranked",
    }  # fmt: skip


CLASS = """
from dataclasses import dataclass
from elsa.method.magnitude import Magnitude

@dataclass(frozen=True, kw_only=True)
class Mine(Magnitude):
    pass
"""
YAML = "_target_: mine.pruning.Mine\n"
MINE = {"mine/__init__.py": "", "mine/pruning.py": CLASS, "mine/conf/method/mine.yaml": YAML}


def test_a_method_without_its_yaml_is_named_with_its_package(elsa, site):
    install(site, "mine", {"mine": "mine.pruning:Mine"}, {"mine/pruning.py": CLASS})
    line = "package mine registers it, but mine has no conf/method/mine.yaml"
    assert refused(elsa, "method=mine") == f"method=mine: {line}"
    assert refused(elsa, "-m", "method=mine,wanda").startswith(f"method=mine: {line}")
    assert refused(elsa, "method=finetuned", "method.start=mine") == f"method.start=mine: {line}"
    assert "mine" not in elsa("--help", model=False)[1]


def test_an_entry_point_without_a_package_is_named(elsa, site):
    install(site, "mine", {"mine": "nowhere.pruning:Mine"}, {})
    wanted = "method=mine: package mine registers nowhere.pruning:Mine, but there is no package nowhere"
    assert refused(elsa, "method=mine") == wanted


@pytest.mark.parametrize(
    ("value", "target", "line"),
    [
        (
            "mine.pruning:Missing", "mine.pruning.Mine",
            "method._target_=mine.pruning.Mine: package mine registers mine = mine.pruning:Missing; entry point and",
        ),
        (
            "mine.pruning:Missing", "mine.pruning.Missing",
            "method._target_=mine.pruning.Missing: no dataclass of this package (mine)",
        ),
        (
            "mine.prunning:Mine", "mine.prunning.Mine",
            "method._target_=mine.prunning.Mine: mine.prunning cannot be imported (No module named 'mine.prunning')",
        ),
    ],
)  # fmt: skip
def test_an_entry_point_without_its_class_is_named(site, imported, value, target, line):
    install(site, "mine", {"mine": value}, MINE | {"mine/conf/method/mine.yaml": f"_target_: {target}\n"})
    with pytest.raises(UserError) as refusal:
        _ = imported("method=mine").label
    assert str(refusal.value).startswith(line)


def test_the_name_is_that_of_the_entry_point_however_the_class_is_reached(site, imported):
    reached = {
        "mine/__init__.py": "from mine.pruning import Mine\n",
        "mine/conf/method/mine.yaml": "_target_: mine.Mine",
    }
    install(site, "mine", {"mine": "mine:Mine"}, MINE | reached)
    assert imported("method=mine").label == "mine"
    assert imported("method=finetuned", "method.start=mine").label == "mine+finetuned"
    assert imported("method=elsa_plus", "method.start=mine").start.label == "mine"


def test_a_name_is_given_once(elsa, site):
    install(site, "mine", {"mine": "mine.pruning:Mine"}, MINE)
    install(site, "yours", {"mine": "yours.pruning:Mine"}, {})
    wanted = "method=mine: package mine and package yours both register this name; uninstall one"
    assert refused(elsa, "method=wanda") == wanted
    assert refused(elsa, "--help") == wanted


def test_the_name_of_a_built_in_method_is_taken(elsa, site):
    install(site, "mine", {"wanda": "mine.pruning:Mine"}, MINE)
    assert refused(elsa, "method=wanda") == "method=wanda: package mine registers the name of a built-in method"


def test_only_packages_that_registered_may_be_named(site, imported):
    install(site, "mine", {}, MINE)
    wanted = r"^method\._target_=mine\.pruning\.Mine: no dataclass of this package, or of one that registers a method$"
    with pytest.raises(UserError, match=wanted):
        imported("method=magnitude", "method._target_=mine.pruning.Mine")
    assert "mine.pruning" not in sys.modules
