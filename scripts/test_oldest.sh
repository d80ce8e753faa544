#!/usr/bin/env bash
# Run the tests that meet transformers with its oldest version that pyproject.toml admits, in an environment of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
oldest=$(sed -n 's/.*"transformers>=\([0-9.]*\)".*/\1/p' pyproject.toml)
[ -x .venv-oldest/bin/python ] || "${PYTHON:-python3}" -m venv .venv-oldest
pinned=$(mktemp)
trap 'rm -f "$pinned"' EXIT
grep -viE '^(transformers|tokenizers|huggingface_hub)==' constraints.txt > "$pinned"
echo "transformers==$oldest.0" >> "$pinned"
.venv-oldest/bin/python -m pip install --quiet --constraint "$pinned" --editable ".[test]"
cd tests
OMP_NUM_THREADS=1 ../.venv-oldest/bin/python -m pytest --numprocesses 2 --dist loadfile "$@" admm checkpoint data evaluation layerwise method model plan train test_api.py run/test_golden.py
