"""What the documentation's pages hold: blocks of code, the commands in them, links and headings."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markdown.extensions.toc import slugify

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
_FENCED = re.compile(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:(?:^|(?<=\n\n))(?: {4}[^\n]*\n)+(?:\n(?: {4}[^\n]*\n)+)*)")
_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#+ +(.*?) *$", re.MULTILINE)


class Block(NamedTuple):
    """`language`: of a fenced block; "" for an indented one, or where none is named."""

    language: str
    text: str


def name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def blocks(page: Path) -> list[Block]:
    text = page.read_text()
    fenced = [Block(found[2], found[3]) for found in _FENCED.finditer(text)]
    indented = [
        Block("", re.sub("^ {4}", "", found[0], flags=re.MULTILINE)) for found in _INDENTED.finditer(prose(page))
    ]
    return fenced + indented


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return _FENCED.sub("", page.read_text())


def links(page: Path) -> list[str]:
    """Targets of links and pictures, but for those of other sites."""
    found = _LINK.findall(re.sub(r"`[^`]*`", "", prose(page)))
    return [link for link in found if not re.match(r"[a-z]+:", link)]


def anchors(page: Path) -> set[str]:
    return {slugify(re.sub(r"[`*]|\]\([^)]*\)|\[", "", heading), "-") for heading in _HEADING.findall(prose(page))}


def commands(page: Path) -> Iterator[list[str]]:
    """The words of every command, as the shell hands them over: of blocks, and of `elsa …=…` in a sentence.

    An indented block may hold anything else, and what troubleshooting quotes in its sentences is wrong on purpose.
    """
    for block in blocks(page):
        if block.language == "bash":
            yield from _words(block.text)
        elif not block.language:
            yield from (words for words in _words(block.text) if words[0] in ("elsa", "bash", "python", "pip"))
    if page.name != "troubleshooting.md":
        for found in re.findall(r"`(elsa [^`…]*=[^`…]*)`", prose(page)):
            yield from _words(" ".join(found.split()))


def _words(text: str) -> Iterator[list[str]]:
    """Of a block: variables are filled in, placeholders too."""
    known: dict[str, str] = {}
    for line in _logical_lines(text):
        words = shlex.split(_filled(line), comments=True)
        assigned = [re.fullmatch(r"([A-Za-z]\w*)=(.*)", word, re.DOTALL) for word in words]
        if words and all(assigned):
            known |= {found[1]: found[2] for found in assigned if found}
            continue
        words = [word for given in words for word in _expanded(given, known)]
        while words and re.match(r"[A-Z_]+=", words[0]):
            words.pop(0)
        if words:
            yield words


def _logical_lines(text: str) -> Iterator[str]:
    """Lines with those that a quote or a backslash continues."""
    line = ""
    for each in text.splitlines():
        line += each.removesuffix("\\") if each.endswith("\\") else each + "\n"
        if each.endswith("\\"):
            continue
        try:
            shlex.split(line, comments=True)
        except ValueError:
            continue
        yield line
        line = ""


def _filled(line: str) -> str:
    """What stands for something of the reader's, as a word."""
    return re.sub(r"<[\w ]+>|…", "mine", line.replace("=$'", "='"))


def _expanded(word: str, known: dict[str, str]) -> list[str]:
    value = known.get(word.removeprefix("$")) if word.startswith("$") else None
    if value is None:
        return [word]
    return [value.encode().decode("unicode_escape")] if '"' in value else value.split()
