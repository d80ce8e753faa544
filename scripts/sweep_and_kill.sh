#!/usr/bin/env bash
# Run 9 runs of sweep=paper_ppl_tiny, kill them in the middle, go on and report on them: no run may be done twice.
set -euo pipefail
cd "$(dirname "$0")/.."
outputs=$(mktemp -d)
trap 'rm -rf "$outputs"' EXIT
sweep=(sweep=paper_ppl_tiny method=dense,wanda,elsa,elsa_plus,finetuned/sparsegpt)
sweep+=(sparsity=unstructured/50,unstructured/90 paths.outputs="$outputs")
timeout --signal=KILL "${1:-60}" .venv/bin/elsa "${sweep[@]}" || echo "killed"
.venv/bin/elsa status paths.outputs="$outputs"
.venv/bin/elsa "${sweep[@]}"
.venv/bin/python - "$outputs"/sweeps/*/manifest.json <<'CHECK'
import json, sys
cells = json.load(open(sys.argv[1]))["cells"]
assert all(cell["state"] == "done" for cell in cells)
again = sum(cell["attempts"] - 1 for cell in cells)
assert again <= 2, f"{again} runs were started twice, more than were at work when the sweep was killed"
print(f"{len(cells)} runs done, {again} of them started twice")
CHECK
.venv/bin/elsa report records=["$(echo "$outputs"/sweeps/*)"] paths.outputs="$outputs"
