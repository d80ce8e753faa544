#!/usr/bin/env bash
# Install if need be, prune the embedded model to 90 % with eight methods, and show table and picture.
set -euo pipefail
cd "$(dirname "$0")/.."
bash scripts/setup.sh
.venv/bin/elsa experiment=quickstart "$@"
cat <<'NEXT'

What to try next:
  .venv/bin/elsa report                                     the same as a page: outputs/reports/<hash>/index.html
  .venv/bin/elsa -m method=sparsegpt,elsa training=short sparsity.ratio=0.5,0.7,0.95
  .venv/bin/elsa method=wanda sparsity=2of4
  .venv/bin/elsa evaluate checkpoint=outputs/runs/<run>     score a checkpoint again, on other windows
  .venv/bin/elsa --help                                     commands, config groups and their choices
Your own model on your own text: docs/guides/own_model.md
NEXT
