"""What decides a result, as hashes."""

import sys
from dataclasses import dataclass, field

import pytest

from elsa.method.wanda import Wanda
from elsa.record.key import Key, code_hash, described


@dataclass(frozen=True)
class Part:
    rate: float = 1.0


@dataclass(frozen=True)
class Whole:
    part: Part = field(default_factory=Part)
    names: tuple = ("a", "b")


def test_a_dataclass_is_described_by_its_class_and_fields():
    assert described(Whole()) == {"type": "Whole", "part": {"type": "Part", "rate": 1.0}, "names": ["a", "b"]}


def test_a_knob_that_came_later_leaves_the_names_of_runs_without_it():
    assert described(Wanda()) == {"type": "Wanda", "calibration_windows": 128}
    assert described(Wanda(few_tokens="all_tokens"))["few_tokens"] == "all_tokens"


@pytest.fixture
def package(tmp_path, monkeypatch):
    """Write modules of a package; returns a function from a text by module to the hash of its code."""
    from elsa.record import key

    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "pack").mkdir()

    def hashed(**modules):
        for name, text in modules.items():
            (tmp_path / "pack" / f"{name}.py").write_text(text)
        key._parsed.cache_clear()
        key._is_module.cache_clear()
        return code_hash(["pack.main"])

    yield hashed
    for name in [name for name in sys.modules if name.startswith("pack")]:
        del sys.modules[name]


BASE = {
    "main": '"""Doc."""\nfrom pack.used import f\ndef g():\n    """Doc."""\n    from pack import late\n    f()\n',
    "used": "def f():\n    return 1\n", "late": "X = 1\n", "other": "Y = 1\n",
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({"used": "def f():\n    return 2\n"}, True),
        ({"late": "X = 2\n"}, True),
        ({"main": BASE["main"].replace(" f()", " -f()")}, True),
        ({"other": "Y = 2\n"}, False),
        ({"main": BASE["main"].replace("Doc.", "Other words.")}, False),
        ({"used": "def f():  # a thought\n    return 1\n"}, False),
    ],
    ids=[
        "an import",
        "an import inside a function",
        "itself",
        "a module that is not imported",
        "docstrings",
        "comments",
    ],
)
def test_the_code_that_counts_is_what_is_imported_and_not_its_words(package, change, counts):
    assert (package(**BASE) != package(**BASE | change)) == counts


def test_neither_the_version_nor_what_shows_results_is_code_that_answers():
    from elsa.record.key import _parsed

    waiting, seen = {"elsa.model.loading", "elsa.method.wanda", "elsa.method.elsa"}, set()
    while waiting:
        module = waiting.pop()
        seen.add(module)
        waiting |= _parsed(module)[1] - seen
    assert {"elsa.hub", "elsa.sparsity.pattern"} < seen
    assert not [each for each in seen if each == "elsa" or each.startswith(("elsa.api", "elsa.run", "elsa.report"))]


def test_a_key_is_a_question_and_a_code(monkeypatch):
    one, other = Key.of({"q": 1}, Part()), Key.of({"q": 2}, Part())
    assert one.code == other.code
    assert one.question != other.question
    monkeypatch.setattr("elsa.record.key.version", lambda library: "another")
    upgraded = Key.of({"q": 1}, Part())
    assert (upgraded.question, str(upgraded)) == (one.question, f"{one.question}-{upgraded.code}")
    assert upgraded.code != one.code
