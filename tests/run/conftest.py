import logging
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
