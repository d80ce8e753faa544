#!/usr/bin/env bash
# Every check there is, also those that take long: each night, and before a release. Some two hours on two cores.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/test.sh --slow
bash scripts/test_oldest.sh --slow admm data evaluation method plan train
bash scripts/sweep_and_kill.sh
.venv/bin/python scripts/bad_inputs.py
.venv/bin/python scripts/bench/gpu.py --device cpu --size toy
bash scripts/test_wheel.sh
