"""What ranks can ask of each other, and that one alone needs nobody."""

import pytest
import torch

from elsa.distributed.ranks import ONE, Ranks, join, started_among
from elsa.errors import AgreedError, UserError
from tests.ranks import on_ranks


def _verbs(ranks):
    mine = torch.tensor([float(ranks.rank), 10.0 - ranks.rank])
    return {
        "rank": (ranks.rank, ranks.size, ranks.first),
        "sum": ranks.sum_(mine.clone()).tolist(),
        "max": ranks.max_(mine.clone()).tolist(),
        "stacked": ranks.stacked(mine).tolist(),
        "copy": ranks.copy_(mine.clone(), 1).tolist(),
        "any": (ranks.any(ranks.rank == 2), ranks.any(False)),
        "gather": ranks.gather({"rank": ranks.rank}),
        "share": list(ranks.share_of(7)),
        "once": ranks.once(lambda: ranks.rank + 41),
    }


def test_all_ranks_get_the_same_answers():
    found = on_ranks(3, _verbs)
    assert [each.pop("rank") for each in found] == [(0, 3, True), (1, 3, False), (2, 3, False)]
    assert [each.pop("share") for each in found] == [[0, 3, 6], [1, 4], [2, 5]]
    assert found == [
        {
            "sum": [3.0, 27.0], "max": [2.0, 10.0], "stacked": [[0.0, 10.0], [1.0, 9.0], [2.0, 8.0]],
            "copy": [1.0, 9.0],
            "any": (True, False), "gather": [{"rank": 0}, {"rank": 1}, {"rank": 2}], "once": 41,
        }
    ] * 3  # fmt: skip


def test_one_alone_needs_nobody():
    assert _verbs(Ranks()) == {
        "rank": (0, 1, True), "sum": [0.0, 10.0], "max": [0.0, 10.0], "stacked": [[0.0, 10.0]], "copy": [0.0, 10.0],
        "any": (False, False), "gather": [{"rank": 0}], "share": list(range(7)), "once": 41,
    }  # fmt: skip
    tensor = torch.ones(2)
    assert ONE.sum_(tensor) is tensor
    assert join("cpu") is ONE


def _refusals(ranks, where):
    def fail():
        if ranks.rank == where:
            raise UserError(f"said by {ranks.rank}")
        return ranks.rank

    found = []
    for verb in (ranks.once, ranks.all_or_none, ranks.first_then_all):
        try:
            found.append(verb(fail))
        except AgreedError as error:
            found.append(str(error))
    return found


def test_an_error_of_the_first_is_one_of_all():
    assert on_ranks(2, _refusals, 0) == [["said by 0"] * 3] * 2


def _one_fails(ranks):
    def fail():
        if ranks.rank == 1:
            raise UserError("said by 1")

    with pytest.raises(AgreedError, match="said by 1"):
        ranks.all_or_none(fail)
    return True


def test_an_error_of_any_is_one_of_all():
    assert on_ranks(2, _one_fails) == [True, True]


def test_tasks_that_srun_has_started_find_each_other(monkeypatch, tmp_path):
    scontrol = tmp_path / "scontrol"
    scontrol.write_text("#!/bin/sh\necho node7\necho node8\n")
    scontrol.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    slurm = {"STEP_NUM_TASKS": "4", "STEP_NODELIST": "node[7-8]", "JOB_ID": "123456", "PROCID": "3", "LOCALID": "1"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    assert started_among() == 4
    from elsa.distributed.ranks import _variables

    assert _variables() == {
        "RANK": "3", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "node7", "MASTER_PORT": "23456",
    }  # fmt: skip
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert started_among() == 1
