"""What a run says of the code that it was made with."""

import subprocess

from elsa.record.environment import commit_of


def test_the_commit_is_that_of_the_repository_that_holds_the_source(tmp_path, monkeypatch):
    def git(*words):
        command = ["git", "-c", "user.name=x", "-c", "user.email=x@y", "-C", tmp_path, *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    installed, ours = (tmp_path / f"{name}.py" for name in ("installed", "ours"))
    for path in (installed, ours):
        path.write_text("")
    assert commit_of(ours) is None
    git("init")
    git("add", "ours.py")
    git("commit", "-m", "x")
    assert commit_of(ours) == git("rev-parse", "HEAD")
    assert commit_of(installed) is None, "it lies in somebody's repository and is not of it"
    monkeypatch.setenv("PATH", "")
    assert commit_of(ours) is None
