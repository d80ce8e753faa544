#!/usr/bin/env bash
# Run the tests that meet transformers with its oldest version that pyproject.toml admits, which lies over .venv while they
# run. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh test
over=$PWD/.venv/oldest
if ! cmp --silent constraints-oldest.txt "$over/installed"; then
    rm -rf "$over"
    .venv/bin/python -m pip install --quiet --no-deps --target "$over" --requirement constraints-oldest.txt
    cp constraints-oldest.txt "$over/installed"
fi
cd tests
PYTHONPATH=$over OMP_NUM_THREADS=1 ../.venv/bin/python -m pytest --numprocesses 2 --dist loadfile "$@" \
    model layerwise checkpoint train/test_loss.py test_api.py run/test_golden.py
