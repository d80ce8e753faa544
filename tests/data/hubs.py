"""A pretended hub: data sets are folders with a README as the hub has it, streamed by `datasets` itself."""

import json
from types import SimpleNamespace
from unittest.mock import MagicMock

import datasets
from huggingface_hub.errors import RepositoryNotFoundError

from elsa import hub

SHA = "1234567890" * 4


class PretendedHub:
    """`asked`: the revisions that were streamed. `read`: how many rows. `online`: whether it can be reached."""

    def __init__(self, folder):
        self.folder, self.asked, self.read, self.commits, self.online = folder, [], 0, 0, True

    def add(self, name, subset, **splits):
        """A data set whose splits are lists of rows."""
        folder = self.folder / name
        folder.mkdir(parents=True)
        files = []
        for split, rows in splits.items():
            (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            files.append({"split": split, "path": f"{split}.jsonl"})
        configs = json.dumps([{"config_name": subset, "data_files": files}])
        (folder / "README.md").write_text(f"---\nconfigs: {configs}\n---\n")

    def load_dataset(self, name, subset, split, revision, streaming):
        assert streaming
        self.asked.append(revision)
        rows = _load(str(self.folder / name), subset, split=split, streaming=True)
        return rows.map(self._counted)

    def _counted(self, row):
        self.read += 1
        return row

    def repo_info(self, name, revision, repo_type):
        assert repo_type == "dataset"
        self.commits += 1
        if not (self.folder / name).is_dir():
            raise RepositoryNotFoundError(f"404: {name} is not there", response=MagicMock())
        return SimpleNamespace(sha=SHA)


_load = datasets.load_dataset


def pretended_hub(monkeypatch, tmp_path):
    """A hub that can be reached, and a mirror that is used."""
    pretended = PretendedHub(tmp_path / "pretended")
    monkeypatch.setattr(datasets, "load_dataset", pretended.load_dataset)
    monkeypatch.setattr(hub, "HfApi", lambda: pretended)
    monkeypatch.setattr(hub, "reachable", lambda: pretended.online)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    return pretended
