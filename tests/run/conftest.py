import logging
import shutil
import sys

import pytest

from elsa.run.cli import main


@pytest.fixture
def elsa(tmp_path, request, monkeypatch, capsys):
    """Run `elsa <arguments>` in the test's folder; returns (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ELSA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(logging.getLogger("elsa"), "handlers", [])

    def run(*arguments, model=True):
        base = []
        if model:
            saved, corpus = map(request.getfixturevalue, ("saved_model", "corpus"))
            base = ["model=pretrained", "model.name=small", f"model.path={saved}", *corpus]
        monkeypatch.setattr(sys, "argv", ["elsa", *arguments[:1], *base, *arguments[1:]])
        capsys.readouterr()
        try:
            main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        out = capsys.readouterr()
        return code, out.out, out.err

    return run


_FINISHED = {}  # {arguments: (the folder of the test that ran them, a copy of what they left)}


@pytest.fixture
def finished(elsa, saved_model, corpus, tmp_path, tmp_path_factory):
    """Run `elsa <arguments>` in the test's folder, or put there what an earlier test with the same ones left."""

    def run(*arguments):
        if arguments not in _FINISHED:
            code, _, err = elsa(*arguments)
            assert code == 0, err
            copy = shutil.copytree(tmp_path / "outputs", tmp_path_factory.mktemp("finished") / "outputs")
            _FINISHED[arguments] = (tmp_path, copy)
            return
        then, copy = _FINISHED[arguments]
        shutil.copytree(copy, tmp_path / "outputs")
        for path in (tmp_path / "outputs").rglob("*.json"):
            path.write_text(path.read_text().replace(str(then), str(tmp_path)))

    return run
