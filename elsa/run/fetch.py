"""`elsa fetch`: copy what the same arguments to `elsa prune` need from the hub into a mirror, for a machine without."""

import tempfile
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from elsa import hub
from elsa.config.build import build
from elsa.config.compose import plain
from elsa.config.prune import PruneConfig
from elsa.data.windows import WindowReader
from elsa.errors import UserError, under
from elsa.files import file_hash, write_json
from elsa.track.progress import progress, working


def fetch(composed: DictConfig) -> None:
    """Fill `paths.mirror` and write its manifest: every file with its size and SHA-256."""
    run = build(PruneConfig, plain(composed))
    if run.paths.mirror is None:
        raise UserError("paths.mirror=null: give the folder to fill, for example /data/mirror")
    if not hub.reachable():
        raise UserError("fetch: the hub cannot be reached; run this on a machine with network")
    mirror = Path(run.paths.mirror)
    hub.use_mirror(run.paths.mirror)
    with working(f"fetch {run.model.name}"):
        run.model.fetch(Path(run.paths.cache))
    if run.method.uses_data:
        with under("data"):
            run.data.check("train")
        _stream(run)
    with working("fetch the evaluation's data"):
        run.eval.fetch(mirror)
    files = sorted(path for path in mirror.rglob("*") if path.is_file() and path.name != "manifest.json")
    manifest: dict[str, dict[str, Any]] = {
        str(path.relative_to(mirror)): {"bytes": path.stat().st_size, "sha256": file_hash(path)}
        for path in progress(files, "hash", unit="file")
    }
    write_json(mirror / "manifest.json", manifest)
    total = sum(entry["bytes"] for entry in manifest.values())
    print(f"{mirror}: {len(manifest)} files, {total / 2**30:.2f} GiB; use it with paths.mirror={mirror}")


def _stream(run: PruneConfig) -> None:
    """Get as many documents as the run's windows take, which only cutting them tells."""
    if not run.data.streamed:
        return
    with tempfile.TemporaryDirectory() as cache:  # windows that were cut before would get none
        reader = WindowReader(
            tokenizer=run.model.tokenizer(Path(run.paths.cache)), cache=Path(cache),
            begin_with_bos=run.model.begin_with_bos,
        )  # fmt: skip
        for count in sorted(run.method.draws(run.training)):
            reader.training(run.data, count, run.seed)
