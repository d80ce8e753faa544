"""Functions run by several processes that share a run, on this machine's CPU."""

import multiprocessing
import os
import socket
import tempfile
import traceback
from pathlib import Path

import torch

_CONTEXT = multiprocessing.get_context("forkserver")  # each rank is a copy of a process that has all imported
_CONTEXT.set_forkserver_preload(["tests.preloaded"])
_PATIENCE = 240


def on_ranks(size, function, *arguments):
    """[function(ranks, *arguments) of every rank]. An error of one is raised with its traceback."""
    with socket.socket() as listening, tempfile.TemporaryDirectory() as folder:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
        listening.close()
        given = (size, port, folder, function, arguments)
        processes = [_CONTEXT.Process(target=_work, args=(rank, *given), daemon=True) for rank in range(size)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(_PATIENCE)
            if process.exitcode is None:
                process.kill()
        answers = [Path(folder, f"{rank}.pt") for rank in range(size)]
        errors = [path.with_suffix(".txt").read_text() for path in answers if path.with_suffix(".txt").exists()]
        assert not errors, "\n".join(errors)
        return [torch.load(path, weights_only=False) for path in answers]


def _work(rank, size, port, folder, function, arguments):
    from elsa.distributed.ranks import join, leave

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    try:
        ranks = join("cpu")
        torch.save(function(ranks, *arguments), Path(folder, f"{rank}.pt"))
        leave(ranks)
    except BaseException:
        Path(folder, f"{rank}.txt").write_text(f"rank {rank}:\n{traceback.format_exc()}")
        raise
