"""What a project says of itself: version, papers, licence, and what an installed package holds."""

import re
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml

import elsa

ROOT = Path(__file__).parents[1]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
ARXIV = re.compile(r"arxiv[:\s]\s*(?:https://arxiv.org/abs/)?(\d{4}\.\d{5})", re.IGNORECASE)


def test_there_is_one_version():
    newest = re.search(r"^## \[(.+)\] - (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert PYPROJECT["project"]["dynamic"] == ["version"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == "elsa/__init__.py"
    assert [newest[1], newest[2]] == [elsa.__version__, str(CITATION["date-released"])]
    assert CITATION["version"] == elsa.__version__


def test_the_citation_file_has_what_its_format_wants():
    assert CITATION["cff-version"] == "1.2.0"
    for work in (CITATION, *CITATION["references"]):
        assert work["title"]
        assert all("name" in author or "family-names" in author for author in work["authors"])
        names = [str(author) for author in work["authors"]]
        assert len(set(names)) == len(names)
    assert {work["type"] for work in CITATION["references"]} == {"article"}
    assert CITATION["license"] == PYPROJECT["project"]["license"]


def test_every_paper_that_the_code_names_is_cited():
    files = [*(ROOT / "elsa").rglob("*.py"), *(ROOT / "conf").rglob("*.yaml")]
    named = {number for path in files for number in ARXIV.findall(path.read_text())}
    cited = {work["url"].removeprefix("https://arxiv.org/abs/") for work in CITATION["references"]}
    assert len(named) > 10
    assert named - cited == set()


def test_the_licence_is_apache_2():
    text = (ROOT / "LICENSE").read_text()
    assert "Apache License" in text
    assert "END OF TERMS AND CONDITIONS" in text


def test_the_oldest_transformers_is_tested():
    (bound,) = [each for each in PYPROJECT["project"]["dependencies"] if each.startswith("transformers>=")]
    oldest = (ROOT / "constraints-oldest.txt").read_text().splitlines()
    assert f"{bound.replace('>=', '==')}.0" in oldest


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel as hatchling builds it here."""
    builder = pytest.importorskip("hatchling.builders.wheel", reason="hatchling builds wheels")
    return Path(next(builder.WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")))))


def test_the_wheel_holds_configs_model_kernels_and_scripts(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    configs = {f"elsa/conf/{path.relative_to(ROOT / 'conf').as_posix()}" for path in (ROOT / "conf").rglob("*.yaml")}
    tracked = {path.relative_to(ROOT).as_posix() for path in (ROOT / "elsa").rglob("*") if path.is_file()}
    tracked = {name for name in tracked if "__pycache__" not in name}
    assert configs | tracked <= names
    assert {"elsa/py.typed", "elsa/run/completions/elsa.bash", "hydra_plugins/elsa_launchers.py"} <= names
    assert not [name for name in names if name.startswith(("tests", "scripts", "docs"))]


def test_the_wheel_says_what_it_is(wheel):
    archive = zipfile.ZipFile(wheel)
    metadata = archive.read(next(name for name in archive.namelist() if name.endswith("METADATA"))).decode()
    for line in (f"Version: {elsa.__version__}", "License-Expression: Apache-2.0", "License-File: LICENSE",
                 "Author: The elsa developers", "Requires-Python: >=3.11", "Classifier: Typing :: Typed"):  # fmt: skip
        assert line in metadata
    assert any(name.endswith("licenses/LICENSE") for name in archive.namelist())
