"""What docs/concepts says of its pictures is what they are drawn from."""

import importlib.util
import re
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
CONCEPTS = ROOT / "docs/concepts"


@pytest.fixture(scope="module")
def drawing():
    spec = importlib.util.spec_from_file_location("draw_concepts", ROOT / "scripts/draw_concepts.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_pages_show_every_picture_that_is_drawn(drawing):
    shown = {
        name for page in CONCEPTS.glob("*.md") for name in re.findall(r"\(pictures/(\w+)\.svg\)", page.read_text())
    }
    assert shown == set(drawing.PICTURES) == {path.stem for path in CONCEPTS.glob("pictures/*.svg")}


def test_the_three_penalties_do_what_the_page_says(drawing):
    kept = {penalty: torch.cat(drawing.admm(penalty).z) != 0 for penalty in drawing.PLANES}
    assert [bool(each.sum(1).eq(1).all()) for each in kept.values()] == [True] * 3
    assert all(mask[0, 0] for mask in kept.values())  # where magnitude begins
    assert not torch.equal(kept[0.4][-1], kept[0.4][-2])
    assert kept[1.0][-5:, 1].all()
    assert kept[4.0][:, 0].all()
    once = drawing.loss(drawing.project(drawing.DENSE, drawing.ONE_OF_TWO))
    found = drawing.loss(drawing.project(drawing.admm(1.0).x[-1], drawing.ONE_OF_TWO))
    assert found < 0.3 * once


def test_the_glossary_is_in_order_and_says_each_word_once():
    words = re.findall(r"^\| \*\*(.+?)\*\* \|", (CONCEPTS / "glossary.md").read_text(), re.MULTILINE)
    assert words == sorted(set(words), key=str.lower)
