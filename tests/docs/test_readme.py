"""The README's way from a model and a text of one's own to a pruned model in plain transformers."""

import re
import shutil
import sys
from pathlib import Path

import pytest

from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.run.job import Names
from tests.docs.pages import ROOT, blocks, commands

README = ROOT / "README.md"
QUICK = ["method.calibration_windows=8", "data.sequence_length=64", "eval.windows=4"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with `my_model` and `my_texts`."""
    shutil.copytree(ROOT / "elsa/model/tiny", tmp_path / "my_model")
    (tmp_path / "my_texts").mkdir()
    for name in ("argparse", "ast", "inspect", "typing"):
        source = Path(sys.modules[name].__file__ or "")
        shutil.copy(source, tmp_path / "my_texts" / f"{name}.txt")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELSA_CACHE", str(tmp_path / "cache"))
    return tmp_path


def test_it_is_short():
    assert len(README.read_text().split()) <= 900


def test_python_prunes_what_the_command_prunes_and_transformers_loads_it(here):
    alone, elsas = (block.text for block in blocks(README) if block.language == "python")
    scope = {}
    exec(elsas.replace('data="my_texts"', f'data="my_texts", overrides={QUICK}'), scope)
    run = scope["run"]
    command = next(words[1:] for words in commands(README) if words[0] == "elsa" and words[1].startswith("model="))
    assert Names.of(build(PruneConfig, compose(*command, *QUICK))).folder == run.folder
    exec(re.sub("<run>", run.folder.name, alone), scope)
    weight = scope["model"].model.layers[0].mlp.up_proj.weight
    assert float((weight == 0).float().mean()) == pytest.approx(0.7, abs=1e-3)
