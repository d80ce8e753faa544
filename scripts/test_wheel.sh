#!/usr/bin/env bash
# Build the wheel, install it alone into an empty environment and run the quickstart's configuration from an empty folder,
# with a budget of a few steps. Needs a package index; some minutes. Arguments are overrides.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/python" -m pip wheel --quiet --no-deps --wheel-dir "$work" .
"$work/venv/bin/python" -m pip install --quiet --constraint constraints.txt "$work"/elsa-*.whl
mkdir "$work/empty"
cd "$work/empty"
unset PYTHONPATH
export ELSA_CACHE="$work/cache" PATH="$work/venv/bin:$PATH"
elsa --version
elsa experiment=quickstart training.steps=64 data.sequence_length=64 eval.windows=8 "$@"
elsa report > /dev/null
python - <<'PYTHON'
import json
import subprocess
from pathlib import Path

import elsa

listed = json.loads(subprocess.run(["elsa", "runs", "format=json"], capture_output=True, check=True).stdout)
records = [json.loads((Path(run["folder"]) / "result.json").read_text()) for run in listed]
assert len(listed) > 5, "a run for each method"
assert all(run["state"] == "finished" for run in listed), listed
made_with = {(record["environment"]["libraries"]["elsa"], record["environment"]["git_commit"]) for record in records}
assert made_with == {(elsa.__version__, None)}, made_with
assert list(Path("outputs/reports").glob("*/index.html")), "no page"
print(f"the wheel of elsa {elsa.__version__} ran {len(listed)} runs")
PYTHON
