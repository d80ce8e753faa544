"""Small programs in the place of runs, and sweeps of them."""

import json
import sys
from pathlib import Path

from elsa.sweep.manifest import Cell, Manifest, read_manifest
from elsa.sweep.queue import Queue

RUN = """
import json, os, pathlib, signal, sys, time
folder, *words = sys.argv[1:]
began = time.time()
if "stubborn" in words:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("began", words, flush=True)
if "dies" in words:
    os.kill(os.getpid(), signal.SIGKILL)
if "full" in words and "smaller" not in words:
    print("no memory")
    sys.exit(3)
if "forgets" in words:
    sys.exit(0)
time.sleep(60 if "endless" in words else float(os.environ.get("LASTS", 0.05)))
seen = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")} | {"parent": os.getppid()}
pathlib.Path(folder).mkdir(parents=True)
(pathlib.Path(folder) / "result.json").write_text(json.dumps(seen | {"began": began, "ended": time.time()}))
"""


def cells(folder, *words):
    return [Cell(i, word, [word], str(folder / f"{i}-{word}")) for i, word in enumerate(words)]


def run(folder, cells, workers, *, smaller=lambda cell: None, lasts=0.05, program=("-c", RUN)):
    def command_of(overrides):
        where = next(cell.folder for cell in cells if cell.overrides[0] == overrides[0])
        return [sys.executable, *program, where, *overrides]

    with Manifest(folder, cells) as manifest:
        queue = Queue(
            manifest, workers, command_of=command_of, environment={"LASTS": str(lasts)}, smaller=smaller,
            folder_of=lambda overrides: str(folder / "-".join(overrides)),
        )  # fmt: skip
        queue.run()
    return read_manifest(folder)


def results(cells):
    return [json.loads((Path(cell.folder) / "result.json").read_text()) for cell in cells if cell.state == "done"]
