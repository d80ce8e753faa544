"""Several processes as one command: how it ends, what it says, and that nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from elsa.distributed.launch import launch
from elsa.errors import LOST_RANK, RankError
from tests.run.runs import of, records

RANK = "import os, sys, time, signal; rank = int(os.environ['RANK']); "


def ended(script, size=3, logs=Path("logs")):
    """Exit code of ranks that run a script, each with its own number as `rank`."""
    return launch([sys.executable, "-c", RANK + script], size, logs)


@pytest.fixture(autouse=True)
def in_its_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_ranks_know_each_other_and_the_first_alone_speaks(capfd):
    script = "print(rank, os.environ['LOCAL_RANK'], os.environ['WORLD_SIZE'], os.environ['MASTER_ADDR'])"
    assert ended(script) == 0
    assert capfd.readouterr().out == "0 0 3 127.0.0.1\n"
    assert not Path("logs").exists()


def test_what_all_say_is_said_once(capfd):
    assert ended("print('elsa: no', file=sys.stderr); sys.exit(2)") == 2
    assert capfd.readouterr().err == "elsa: no\n"
    assert not Path("logs").exists()


def test_what_one_says_alone_is_said_for_it(monkeypatch):
    monkeypatch.setattr("elsa.distributed.launch._PATIENCE", 0.5)
    script = "print('elsa: out of memory', file=sys.stderr) if rank == 1 else time.sleep(60); sys.exit(3)"
    with pytest.raises(RankError, match=r"^rank 1 ended with exit code 3: out of memory; logs has more") as found:
        ended(script)
    assert found.value.exit_code == 3
    assert Path("logs/1.log").read_text() == "elsa: out of memory\n"


@pytest.mark.parametrize("rank", [0, 2])
def test_a_killed_rank_ends_all_and_is_named(rank):
    others = f"(time.sleep(0.2), sys.exit({LOST_RANK}))"  # they see that it has gone
    script = f"os.kill(os.getpid(), signal.SIGKILL) if rank == {rank} else {others}"
    began = time.monotonic()
    with pytest.raises(RankError, match=f"^rank {rank} was killed by SIGKILL") as found:
        ended(script)
    assert found.value.exit_code == 137
    assert time.monotonic() - began < 10


def launched(arguments, **variables):
    return subprocess.Popen(
        [sys.executable, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | variables,
    )  # fmt: skip


def test_a_signal_reaches_every_rank():
    script = "import time\nfrom pathlib import Path\nfrom elsa.distributed.launch import launch\nimport sys\n"
    waits = RANK + (
        "signal.signal(signal.SIGTERM, lambda number, frame: (open(f'got-{rank}', 'w').close(), sys.exit(143)))\n"
        "open(f'up-{rank}', 'w').close()\ntime.sleep(60)"
    )
    process = launched(["-c", f"{script}sys.exit(launch([sys.executable, '-c', {waits!r}], 2, Path('logs')))"])
    while len(list(Path().glob("up-*"))) < 2:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=20)
    assert process.returncode == 143
    assert sorted(path.name for path in Path().glob("got-*")) == ["got-0", "got-1"]


RUN = [
    "method=elsa", "sparsity.ratio=0.9", "method.interval=2", "training.steps=24", "training.batch_size=4",
    "training.accumulation=4", "training.fixed_order=true", "training.learning_rate=1e-3", "checkpoint.every_minutes=0",
    "probe_every=4", "training.autocast=none",
]  # fmt: skip


@pytest.fixture
def base(saved_model, corpus):
    return ["model=pretrained", "model.name=small", f"model.path={saved_model}", *corpus]


def weights(outputs):
    (path,) = Path().glob(f"{outputs}/runs/*-elsa-*/model/model.safetensors")
    return path.read_bytes()


@pytest.mark.slow
def test_a_run_that_loses_a_rank_goes_on_to_the_weights_of_one_device(base):
    one = launched(["-m", "elsa", *RUN, *base, "paths.outputs=one"])
    two = launched(["-m", "elsa", *RUN, *base, "devices=2"])
    while not list(Path().glob("outputs/runs/*-elsa-*/checkpoints/step-*")):
        assert two.poll() is None, two.stderr.read()
        time.sleep(0.01)
    ranks = Path(f"/proc/{two.pid}/task/{two.pid}/children").read_text().split()
    os.kill(int(ranks[1]), signal.SIGKILL)
    _, error = two.communicate(timeout=60)
    assert two.returncode == 137
    assert error.splitlines()[-1].startswith("elsa: rank 1 was killed by SIGKILL")
    assert not any(Path(f"/proc/{rank}").exists() for rank in ranks)
    out, error = launched(["-m", "elsa", *RUN, *base, "devices=2"]).communicate(timeout=120)
    assert "going on after step" in out, error
    assert out.count("record outputs/runs/small-elsa-") == 1
    one.communicate(timeout=120)
    assert weights("outputs") == weights("one")
    folder, record = of("elsa")
    assert record["devices"] == 2
    assert not (folder / "checkpoints").exists()
    assert not Path("outputs/ranks").exists() or list(Path("outputs/ranks").iterdir())  # of the killed one
    assert {each["method"] for each in records().values()} == {"dense", "elsa"}
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == [f'{{"step": {step}' for step in range(2, 25, 2)]


FEW = ["method=wanda", "method.calibration_windows=6", "sparsity=2of4"]


def test_processes_that_torchrun_has_started_join(base):
    command = ["-m", "torch.distributed.run", "--nproc-per-node=2", "-m", "elsa", *FEW, *base]
    out, error = launched(command).communicate(timeout=120)
    assert out.count("record outputs/runs/small-wanda-2of4") == 1, error
    _, record = of("wanda")
    assert record["devices"] == 2
    assert record["sparsity"]["counted"] == 0.5


@pytest.mark.slow
def test_several_ranks_score_as_one(base):
    launched(["-m", "elsa", *FEW, *base]).communicate(timeout=120)
    folder, _ = of("wanda")
    again = ["-m", "elsa", "evaluate", f"checkpoint={folder}", *base[3:], "eval.windows=7"]
    one, _ = launched(again).communicate(timeout=60)
    path = folder / "result.json"
    kept = json.loads(path.read_text())["evaluations"][1]
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"evaluations": json.loads(path.read_text())["evaluations"][:1]})
    )
    two, error = launched([*again, "devices=2"]).communicate(timeout=60)
    assert two == one, error
    _, found = json.loads(path.read_text())["evaluations"]
    assert found["perplexity"] == kept["perplexity"]  # the same bits


@pytest.mark.slow
def test_a_mistake_is_one_line_of_the_first_rank(base):
    process = launched(["-m", "elsa", *RUN, *base, "devices=2", "model.name=../up"])
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out, error.count("\n")) == (2, "", 1)
    process = launched(["-m", "elsa", *RUN, *base, "devices=2", "data.train=[nowhere.txt]"])
    out, error = process.communicate(timeout=60)
    assert (process.returncode, out) == (2, "")
    assert error == "elsa: data.train=nowhere.txt: no such file or folder\n"
    assert not Path("outputs").exists()
