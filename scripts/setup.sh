#!/usr/bin/env bash
# Create or reuse .venv and install elsa with the versions it was tested with: scripts/setup.sh [extra,...]
set -euo pipefail
cd "$(dirname "$0")/.."
extras=${1:+[$1]}
[ -x .venv/bin/python ] || "${PYTHON:-python3}" -m venv .venv
wanted=$( (cat pyproject.toml constraints.txt; echo "$extras") | sha256sum)
if [ "$(cat ".venv/installed$extras" 2>/dev/null)" != "$wanted" ]; then
    .venv/bin/python -m pip install --quiet --constraint constraints.txt --editable ".$extras"
    echo "$wanted" > ".venv/installed$extras"
fi
