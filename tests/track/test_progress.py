import time

import pytest

from elsa.track import progress as module
from elsa.track.progress import progress, working


@pytest.fixture
def soon(monkeypatch):
    """What takes a tenth of a second is long."""
    monkeypatch.setattr(module, "_DELAY", 0.02)
    monkeypatch.setattr(module, "_ELSEWHERE", 0.02)


def test_one_slow_item_is_seen_to_go_on_in_lines_of_a_log(soon, capsys):
    for _ in progress(range(2), "prune", unit="block"):
        time.sleep(0.2)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("prune:   0%|")
    assert any("1/2" in line for line in lines)
    assert not any("\r" in line for line in lines)


def test_without_a_clock_nothing_is_drawn_while_an_item_is_at_work(soon, capsys):
    for _ in progress(range(2), "decode", clock=False):
        time.sleep(0.2)
    assert "0/2" not in capsys.readouterr().err


def test_what_cannot_be_counted_says_how_long_it_took_so_far(soon, capsys):
    with working("load a"):
        time.sleep(0.2)
    assert capsys.readouterr().err.startswith("load a: 00:00\n")


def test_what_is_quick_says_nothing(capsys):
    assert list(progress(iter("abc"), "hash", total=3)) == ["a", "b", "c"]
    with working("load"):
        pass
    assert capsys.readouterr().err == ""


def test_of_several_ranks_the_first_alone_is_heard(soon, capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    for _ in progress(range(2), "prune"):
        time.sleep(0.1)
    with working("load"):
        time.sleep(0.1)
    assert capsys.readouterr().err == ""


def test_what_fails_inside_fails_as_it_would_alone(soon):
    with pytest.raises(ZeroDivisionError), working("load"):
        1 / 0  # noqa: B018
    assert not [each for each in module.tqdm._instances if not each.disable]
