"""The site is built strictly, from what lies here alone."""

import re
import shutil
import subprocess
import sys

import pytest

from tests.docs.pages import DOCS, ROOT


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The finished site. Any warning of the builder, as of a page or an anchor that is not there, ends it."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "mkdocs.yml", folder)
    shutil.copytree(DOCS, folder / "docs")
    (folder / "elsa").symlink_to(ROOT / "elsa")
    built = subprocess.run(
        [sys.executable, "-m", "zensical", "build", "--strict"], cwd=folder, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    return folder / "site"


def test_every_page_is_there(site):
    pages = [page.relative_to(DOCS) for page in DOCS.rglob("*.md")]
    assert [page for page in pages if not (site / page.with_suffix(".html")).is_file()] == []


def test_nothing_is_loaded_from_elsewhere(site):
    """Fonts, scripts and styles are the site's own, so that it opens from disk."""
    loaded = re.compile(
        r"<(?:script|img|iframe|link(?=[^>]*rel=\"?(?:stylesheet|preload|preconnect)))\b[^>]*?(?:src|href)=\"?(https?:)?//"
    )
    for page in site.rglob("*.html"):
        assert not loaded.search(page.read_text()), page
    for style in site.rglob("*.css"):
        assert not re.search(r"@import|url\([\"']?https?:", style.read_text()), style
