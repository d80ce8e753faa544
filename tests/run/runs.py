"""What runs left in the test's folder."""

import json
from pathlib import Path


def records(folder=Path()):
    return {path.parent: json.loads(path.read_text()) for path in folder.glob("outputs/runs/*/result.json")}


def of(method):
    return next((folder, record) for folder, record in records().items() if record["method"] == method)
