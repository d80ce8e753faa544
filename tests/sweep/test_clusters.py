"""Jobs of Slurm and tasks of Ray go through the manifest that processes of this machine go through."""

import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from elsa.errors import UserError
from elsa.sweep.manifest import read_manifest
from elsa.sweep.remote import execute
from elsa.sweep.slurm import Slurm, SlurmJobs, _torchrun
from tests.sweep.programs import cells, results, run

ASKED = {"jobs_at_once": 2, "minutes": 5, "nodes": 1, "gpus": 0, "cpus": 1, "memory_gib": 1, "parameters": {}}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::ResourceWarning")
def test_slurm_jobs_go_through_the_same_manifest(tmp_path):
    slurm = Slurm(cluster="local", folder=tmp_path / "slurm", **ASKED)
    ended = run(tmp_path, cells(tmp_path, "a", "b", "dies"), SlurmJobs(slurm))
    assert [cell.state for cell in ended] == ["done", "done", "failed"]
    assert ended[2].reason == "killed by SIGKILL: began ['dies']"


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """Slurm's commands as far as submitit asks for them: a job is taken and its script kept."""
    commands = {
        "sbatch": "echo Submitted batch job 4711",
        "srun": "",
        "sacct": "",
        "scontrol": "echo node3; echo node4",
    }
    for name, does in commands.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_the_script_of_a_job_asks_for_one_task_on_each_node(tmp_path, cluster):
    folder = tmp_path / "slurm"
    asked = ASKED | {"nodes": 2, "gpus": 4, "cpus": 16, "memory_gib": 200, "parameters": {"slurm_partition": "h100"}}
    jobs = SlurmJobs(Slurm(cluster="slurm", folder=folder, **asked))
    assert jobs.devices == 8
    jobs.start([sys.executable, "-c", "print(1)"], {}, tmp_path / "logs/0.log")
    script = folder / "4711_submission.sh"
    lines = script.read_text().splitlines()
    for wanted in (
        "--nodes=2", "--ntasks-per-node=1", "--gpus-per-node=4", "--cpus-per-task=16", "--mem=200GB", "--time=5",
        "--partition=h100", "--job-name=elsa",
    ):  # fmt: skip
        assert f"#SBATCH {wanted}" in lines, lines
    assert any(line.startswith("#SBATCH --signal=USR2@") for line in lines)


def test_on_several_nodes_torchrun_starts_the_processes(monkeypatch, cluster):
    monkeypatch.setenv("SLURM_JOB_NODELIST", "node[3-4]")
    monkeypatch.setenv("SLURM_JOB_ID", "4711")
    assert _torchrun([sys.executable, "-m", "elsa.run.cli", "prune", "seed=1"], 2, 4) == [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=4", "--rdzv-backend=c10d",
        "--rdzv-endpoint=node3:24711", "--rdzv-id=4711", "--max-restarts=0", "-m", "elsa.run.cli", "prune", "seed=1",
    ]  # fmt: skip


def test_several_nodes_need_gpus(tmp_path):
    with pytest.raises(UserError, match=r"^hydra\.launcher\.gpus=0: at least 1 on each of the 2 nodes"):
        Slurm(cluster="local", folder=tmp_path, **ASKED | {"nodes": 2})


def test_an_interrupted_task_lets_its_command_save(tmp_path):
    waits = "import signal, sys, time; signal.signal(15, lambda *_: sys.exit(print('saved'))); print('up', flush=True)"
    command = [sys.executable, "-c", f"{waits}; time.sleep(60)"]
    log = tmp_path / "log"

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 1.0)
    try:
        with pytest.raises(KeyboardInterrupt):
            execute(command, {}, log, tmp_path)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert log.read_text() == "up\nsaved\n"


SWEEP = """
import sys
from pathlib import Path
from elsa.sweep.ray import Ray, RayTasks
from tests.sweep.programs import cells, run
folder = Path(sys.argv[1])
tasks = RayTasks(Ray(address=sys.argv[2] or None, jobs_at_once=2, gpus=0, cpus=1, resources={}))
run(folder, cells(folder, *"abcdef"), tasks, lasts=0.7)
"""


def sweep(folder, address):
    return subprocess.Popen([sys.executable, "-c", SWEEP, str(folder), address], start_new_session=True)


@pytest.fixture
def ray(monkeypatch):
    """The address of a Ray cluster of two workers on this machine, and of nobody else's."""
    program = Path(sys.executable).with_name("ray")
    if not program.is_file():
        pytest.skip("ray is not installed")
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{listening.getsockname()[1]}"
    folder = tempfile.mkdtemp(prefix="ray-")  # the path of a socket is short
    started = [str(program), "start", "--head", "--block", "--num-cpus=2", f"--port={address.split(':')[1]}"]
    started += ["--node-ip-address=127.0.0.1", "--include-dashboard=false", f"--temp-dir={folder}"]
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    cluster = subprocess.Popen(started, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    asked = [str(program), "status", f"--address={address}"]
    while subprocess.run(asked, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode:
        assert cluster.poll() is None
    yield address
    cluster.terminate()
    cluster.wait(30)
    shutil.rmtree(folder, ignore_errors=True)


def test_a_sweep_on_ray_that_is_killed_does_nothing_twice(tmp_path, ray):
    first = sweep(tmp_path, ray)
    while sum(cell.state == "done" for cell in read_manifest(tmp_path) or []) < 2:
        assert first.poll() is None
        time.sleep(0.02)
    first.kill()
    first.wait()
    done = [cell.number for cell in read_manifest(tmp_path) if cell.finished]
    assert sweep(tmp_path, ray).wait(60) == 0
    ended = read_manifest(tmp_path)
    assert [cell.state for cell in ended] == ["done"] * 6
    assert [cell.attempts for cell in ended if cell.number in done] == [1] * len(done)
    at_work = [(each["began"], each["ended"]) for each in results(ended)]
    assert max(sum(began <= moment < ended for began, ended in at_work) for moment, _ in at_work) == 2
