"""Every notebook runs as it is, with small budgets and without network."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.py"))
SAYS = {
    "prune_and_compare": ["elsa_plus ", "80.00%", "of down_proj in block 0 are zero"],
    "write_a_method": [
        "power 0.5: perplexity ",
        "power=-1: 0 (magnitude) or more",
        "Shrunk: 80.0% zeros",
        "Elsa: 80.0%",
    ],
    "read_a_sweep": ["sparsellm − alps at 70 %: -", "over 3 seeds"],
}


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """Of tokens, which the notebooks share."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(notebook, tmp_path, cache):
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    small = {"NOTEBOOK_STEPS": "24", "NOTEBOOK_WINDOWS": "4", "ELSA_CACHE": str(cache)}
    ended = subprocess.run(
        [sys.executable, "-W", "error::SyntaxWarning", str(notebook)], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | small | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-2000:]
    assert [words for words in SAYS[notebook.stem] if words not in ended.stdout] == []


def test_the_index_names_them_all():
    index = (ROOT / "docs/notebooks/index.md").read_text()
    assert [path.name for path in NOTEBOOKS if f"({path.name})" not in index] == []
    assert SAYS.keys() == {path.stem for path in NOTEBOOKS}
