"""Every page is in the site's list, and every link of the README and the pages leads somewhere."""

import pytest
import yaml

from tests.docs.pages import DOCS, PAGES, ROOT, anchors, links, name

GENERATED = ("tables.md", "table.md")  # beside the records that they are made of


def listed(entries) -> list[str]:
    """The pages of mkdocs.yml."""
    found = []
    for entry in entries:
        inside = next(iter(entry.values())) if isinstance(entry, dict) else entry
        found += [inside] if isinstance(inside, str) else listed(inside)
    return found


def test_every_page_is_in_the_list_once():
    pages = listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert len(pages) == len(set(pages))
    there = {page.relative_to(DOCS).as_posix() for page in PAGES[1:] if page.name not in GENERATED}
    assert set(pages) == there


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_links_lead_to_what_is_there(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert page.name == "README.md" or target.is_relative_to(DOCS), f"{link} leads out of the site"
        assert not anchor or anchor in anchors(target), link
