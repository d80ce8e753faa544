#!/usr/bin/env bash
# Install if need be, then check style, import order, types and tests, on two processes. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh test
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/lint-imports
.venv/bin/mypy
OMP_NUM_THREADS=1 .venv/bin/python -m pytest --numprocesses 2 --dist loadfile "$@"
