"""Processes on slots, with small programs in the place of runs."""

import itertools
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from elsa.errors import OUT_OF_MEMORY, Stopped, UserError
from elsa.sweep.manifest import Cell, Manifest, is_running, read_manifest
from elsa.sweep.queue import Queue
from elsa.sweep.slots import Slots, cpu_slots, gpu_slots
from tests.sweep.programs import RUN, cells, results, run


def test_never_two_runs_on_one_gpu_and_a_crash_frees_it(tmp_path, caplog):
    words = ["job" if i % 4 else "dies" for i in range(12)]
    todo = [Cell(i, f"{i}", [word, str(i)], str(tmp_path / str(i))) for i, word in enumerate(words)]

    def command_of(overrides):
        return [sys.executable, "-c", RUN, str(tmp_path / overrides[1]), *overrides]

    with Manifest(tmp_path, todo) as manifest:
        Queue(
            manifest, Slots(gpu_slots(["0", "1", "2", "3"], 1)), command_of=command_of, environment={"LASTS": "0.3"},
            smaller=lambda cell: None, folder_of=lambda overrides: "",
        ).run()  # fmt: skip
    ended = read_manifest(tmp_path)
    assert [cell.state for cell in ended] == ["done" if word != "dies" else "failed" for word in words]
    assert {cell.attempts for cell in ended} == {1}
    found = results(ended)
    assert {each["CUDA_VISIBLE_DEVICES"] for each in found} == {"0", "1", "2", "3"}
    for one, other in itertools.combinations(found, 2):
        if one["CUDA_VISIBLE_DEVICES"] == other["CUDA_VISIBLE_DEVICES"]:
            assert one["ended"] <= other["began"] or other["ended"] <= one["began"]
    err = caplog.text
    assert err.count("killed by SIGKILL on gpu") == 3
    assert "began ['dies', '0']" in err
    assert ended[0].reason.startswith("killed by SIGKILL: began")


def test_a_slot_is_a_group_of_gpus_or_a_share_of_the_threads():
    assert [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in gpu_slots(list("01234"), 2)] == ["0,1", "2,3"]
    cores = len(os.sched_getaffinity(0))
    assert [slot.environment["OMP_NUM_THREADS"] for slot in cpu_slots(cores, None)] == ["1"] * cores
    assert cpu_slots(1, 3)[0].environment == {
        "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "3", "MKL_NUM_THREADS": "3",
    }  # fmt: skip


def test_out_of_memory_is_tried_once_more_with_less(tmp_path):
    assert OUT_OF_MEMORY == 3
    todo = cells(tmp_path, "full", "easy")
    ended = run(tmp_path, todo, Slots(cpu_slots(1, 1)), smaller=lambda cell: ["smaller"])
    assert [(cell.state, cell.attempts, cell.changed) for cell in ended] == [
        ("done", 2, ["smaller"]), ("done", 1, []),
    ]  # fmt: skip
    assert Path(ended[0].folder).name == "full-smaller"
    again = Manifest(tmp_path, cells(tmp_path, "full", "easy")).cells
    assert [(cell.state, cell.folder, cell.changed) for cell in again] == [
        ("done", ended[0].folder, ["smaller"]), ("done", ended[1].folder, []),
    ]  # fmt: skip


@pytest.mark.parametrize("smaller", [lambda cell: None, lambda cell: ["of no use"]])
def test_out_of_memory_without_a_way_out_fails(tmp_path, smaller):
    (cell,) = run(tmp_path, cells(tmp_path, "full"), Slots(cpu_slots(1, 1)), smaller=smaller)
    assert (cell.state, cell.reason) == ("failed", "exit code 3: no memory")


def test_a_sweep_that_is_stopped_goes_on_and_does_nothing_twice(tmp_path):
    def killer():
        while not any(path.name == "result.json" for path in tmp_path.rglob("*")):
            time.sleep(0.01)
        assert is_running(tmp_path)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=killer)
    thread.start()
    words = ["a", "b", "c", "d"]
    with pytest.raises(Stopped, match="stopped by SIGTERM; the same command goes on"):
        run(tmp_path, cells(tmp_path, *words), Slots(cpu_slots(1, 1)), lasts=0.5)
    thread.join()
    assert not is_running(tmp_path)
    before = read_manifest(tmp_path)
    assert {cell.state for cell in before} == {"done", "waiting"}
    after = run(tmp_path, cells(tmp_path, *words), Slots(cpu_slots(1, 1)))
    assert {cell.state for cell in after} == {"done"}
    for old, new in zip(before, after, strict=True):
        assert new.attempts - old.attempts == (old.state != "done")


def test_what_is_cut_off_by_a_stop_waits_and_what_still_ends_is_done(tmp_path):
    def killer():
        while sum(path.read_text().startswith("began") for path in tmp_path.glob("logs/*.log")) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=killer)
    thread.start()
    with pytest.raises(Stopped):
        run(tmp_path, cells(tmp_path, "endless", "stubborn", "later"), Slots(cpu_slots(2, 1)), lasts=0.5)
    thread.join()
    ended = read_manifest(tmp_path)
    assert [(cell.state, cell.attempts, cell.where) for cell in ended] == [
        ("waiting", 1, None), ("done", 1, None), ("waiting", 0, None),
    ]  # fmt: skip


@pytest.fixture
def as_module(tmp_path, monkeypatch):
    """Arguments of Python that run the program as a module, which a fork takes."""
    (tmp_path / "forked_program.py").write_text(RUN)
    monkeypatch.syspath_prepend(tmp_path)
    return "-m", "forked_program"


def test_forked_runs_share_a_parent_that_is_not_this_process_and_end_as_programs_do(tmp_path, as_module):
    todo = cells(tmp_path, "a", "dies", "full", "b")
    workers = Slots(cpu_slots(2, 3), imports=["torch"])
    a, dies, full, b = run(tmp_path, todo, workers, program=as_module)
    assert (a.state, b.state) == ("done", "done")
    assert (dies.state, dies.reason) == ("failed", "killed by SIGKILL: began ['dies']")
    assert (full.state, full.reason) == ("failed", "exit code 3: no memory")
    one, other = results([a, b])
    assert one["OMP_NUM_THREADS"] == "3"
    assert one["parent"] == other["parent"] != os.getpid()


def test_a_sweep_of_forked_runs_that_is_stopped_stops_them(tmp_path, as_module):
    def killer():
        while not any(path.read_text().startswith("began") for path in tmp_path.glob("logs/*.log")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    workers = Slots(cpu_slots(1, 1), imports=["torch"])
    thread = threading.Thread(target=killer)
    thread.start()
    with pytest.raises(Stopped):
        run(tmp_path, cells(tmp_path, "endless"), workers, program=as_module)
    thread.join()
    assert [cell.state for cell in read_manifest(tmp_path)] == ["waiting"]


def test_a_run_without_a_record_has_failed_whatever_its_exit_code(tmp_path):
    forgetful, fine = run(tmp_path, cells(tmp_path, "forgets", "fine"), Slots(cpu_slots(1, 1)))
    assert (forgetful.state, forgetful.reason) == ("failed", "exit code 0: began ['forgets']")
    assert (fine.state, fine.reason) == ("done", None)


def test_a_second_attempt_that_gave_nothing_is_not_gone_on_with(tmp_path):
    (tried,) = run(tmp_path, cells(tmp_path, "full"), Slots(cpu_slots(1, 1)), smaller=lambda cell: ["of no use"])
    assert (tried.state, tried.changed, Path(tried.folder).name) == ("failed", ["of no use"], "full-of no use")
    (cell,) = Manifest(tmp_path, cells(tmp_path, "full")).cells
    assert (cell.state, cell.changed, Path(cell.folder).name, cell.attempts) == ("waiting", [], "0-full", 2)


def test_a_failed_run_is_tried_again_by_the_next_sweep(tmp_path):
    run(tmp_path, cells(tmp_path, "dies"), Slots(cpu_slots(1, 1)))
    (cell,) = Manifest(tmp_path, cells(tmp_path, "dies")).cells
    assert (cell.state, cell.attempts) == ("waiting", 1)


def test_a_cell_that_cannot_run_is_done_if_it_ran_before(tmp_path):
    run(tmp_path, cells(tmp_path, "easy"), Slots(cpu_slots(1, 1)))
    for cell in (again := cells(tmp_path, "easy", "new")):
        cell.state, cell.reason = "failed", "the hub cannot be reached"
    easy, new = Manifest(tmp_path, again).cells
    assert (easy.state, easy.reason) == ("done", None)
    assert (new.state, new.reason) == ("failed", "the hub cannot be reached")


def test_one_process_at_a_time_runs_a_sweep(tmp_path):
    with Manifest(tmp_path, []), pytest.raises(UserError, match="another process is running this very sweep"):
        Manifest(tmp_path, []).__enter__()


def test_a_broken_manifest_is_named(tmp_path):
    (tmp_path / "manifest.json").write_text('{"cells": [{"number": 1}]}')
    with pytest.raises(UserError, match="no manifest of a sweep"):
        read_manifest(tmp_path)
