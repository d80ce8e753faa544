"""A run that was interrupted ends with the very weights of one that was not."""

import dataclasses
import errno
import os
import pickle
import signal
import threading

import pytest
import torch

from elsa.admm.engine import Admm
from elsa.checkpoint.resume import RunCheckpoints
from elsa.config.build import build
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.errors import Stopped, UserError
from elsa.method.elsa import Elsa
from tests.conftest import random_model
from tests.method.methods import METHODS, TRAINING, shipped, task_of
from tests.method.test_contract import PATTERNS, task

STEPS = 8
PRECISIONS = {name: build(PruneConfig, compose(f"precision={name}")).precision for name in ("elsa", "elsa_l")}
PRECISIONS["elsa_l_paper"] = build(PruneConfig, compose("precision=elsa_l_paper")).precision


class PowerLoss(BaseException):
    """The process is gone."""


class Interrupted(RunCheckpoints):
    """Loses power after having saved a step."""

    def __init__(self, *arguments, at):
        super().__init__(*arguments)
        self._at = at

    def save(self, step, state):
        super().save(step, state)
        if step == self._at:
            raise PowerLoss


def checkpoints(folder, **facts):
    return RunCheckpoints(folder, 0, 2, lambda: {"method.interval": 2} | facts)


RESUMED = METHODS | {"loss_aware": Elsa(interval=2, projection="loss_aware")}


def prune(method, windows, precision="elsa", kept=None, family="llama"):
    """Weights after the method on a fresh model."""
    torch.manual_seed(0)
    model = random_model(family)
    given, logged = task(windows, PATTERNS["70 %"])
    changes = {"training": dataclasses.replace(TRAINING, steps=STEPS, batch_size=2), "precision": PRECISIONS[precision]}
    changes |= {"probe_every": 4}
    changes |= {} if kept is None else {"checkpoints": kept}
    facts = RESUMED[method].apply(model, dataclasses.replace(given, **changes))
    return model.state_dict(), facts, logged


def assert_same(left, right):
    assert left.keys() == right.keys()
    assert all(torch.equal(left[key], right[key]) for key in left)


def test_a_state_is_written_while_training_goes_on(tmp_path, windows, monkeypatch):
    expected, _, _ = prune("elsa", windows)
    began, may_end, save = threading.Event(), threading.Event(), torch.save

    def slow(state, path):
        began.set()
        assert may_end.wait(30)
        save(state, path)

    monkeypatch.setattr(torch, "save", slow)
    kept, weights = RunCheckpoints(tmp_path, 0, 2, dict, background=True), torch.ones(3)
    kept.save(1, {"step": 1, "weights": [weights]})
    assert began.wait(30)
    assert not list(tmp_path.glob("step-*"))
    weights.zero_()  # training goes on
    may_end.set()
    assert kept.kept() == f"the last good state is {tmp_path / 'step-00000001.pt'}"
    assert torch.equal(RunCheckpoints(tmp_path, 0, 2, dict).latest()["weights"][0], torch.ones(3))
    with pytest.raises(PowerLoss):
        prune("elsa", windows, kept=Interrupted(tmp_path / "run", 0, 2, dict, at=5))
    goes_on = RunCheckpoints(tmp_path / "run", 0, 2, dict, background=True)
    result, _, _ = prune("elsa", windows, kept=goes_on)
    assert_same(result, expected)
    assert goes_on.kept().endswith("step-00000008.pt")


@pytest.mark.parametrize("method", ["elsa", "loss_aware", "finetuned"])
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("at", [1, 3, STEPS])
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(tmp_path, windows, method, precision, at):
    expected, facts, logged = prune(method, windows, precision)
    with pytest.raises(PowerLoss):
        prune(method, windows, precision, Interrupted(tmp_path, 0, 2, dict, at=at))
    torch.manual_seed(99)
    result, its_facts, its_logged = prune(method, windows, precision, RunCheckpoints(tmp_path, 0, 2, dict))
    assert_same(result, expected)
    assert its_facts == facts
    timeless = [(step, {k: v for k, v in m.items() if k != "tokens_per_second"}) for step, m in its_logged]
    assert timeless == [
        (step, {k: v for k, v in m.items() if k != "tokens_per_second"}) for step, m in logged if step > at
    ]


SOFT = ["method.hard=false", "method.retention=0.7", "method.polish_fraction=0.4", "training.distillation=0.5"]
PATHS = {"hard": [], "auto": [*SOFT, "penalty=auto"], "cosine": [*SOFT, "penalty=cosine"]}


@pytest.mark.parametrize("overrides", PATHS.values(), ids=PATHS)
def test_elsa_plus_goes_on_after_every_single_step_as_if_nothing_had_happened(tmp_path, windows, overrides):
    config = shipped(*overrides)

    def run(folder, minutes, seed):
        logged, model = {}, random_model("llama")
        kept = RunCheckpoints(folder, minutes, config.training.steps, dict)
        torch.manual_seed(seed)
        facts = config.method.apply(model, task_of(config, windows, logged.__setitem__, checkpoints=kept))
        return model.state_dict(), facts, {step: metrics | {"tokens_per_second": 0} for step, metrics in logged.items()}

    expected, facts, logged = run(tmp_path / "whole", 0, seed=0)
    for step in range(1, config.training.steps + 1):
        folder, name = tmp_path / f"after_{step}", f"step-{step:08d}.pt"
        folder.mkdir()
        (tmp_path / "whole" / name).rename(folder / name)
        result, its_facts, its_logged = run(folder, 60, seed=99)
        assert_same(result, expected)
        assert its_facts == facts
        assert its_logged == {later: metrics for later, metrics in logged.items() if later > step}


def test_dropout_goes_on_with_the_same_random_numbers(tmp_path, windows, monkeypatch):
    from tests import conftest

    monkeypatch.setattr(conftest.CONFIGS["opt"], "dropout", 0.3)
    expected, _, _ = prune("elsa", windows, family="opt")
    with pytest.raises(PowerLoss):
        prune("elsa", windows, "elsa", Interrupted(tmp_path, 0, 2, dict, at=3), family="opt")
    result, _, _ = prune("elsa", windows, "elsa", checkpoints(tmp_path), family="opt")
    assert_same(result, expected)


def test_a_process_that_dies_while_it_writes_leaves_the_state_before(tmp_path, windows, monkeypatch):
    expected, _, _ = prune("elsa", windows)
    save = torch.save

    def dying(state, path):
        if state["step"] == 4:
            path.write_bytes(b"half a file")
            path.replace(path.with_name(".left.part-behind.pt"))  # as SIGKILL leaves it: nothing cleans up
            raise PowerLoss
        save(state, path)

    monkeypatch.setattr(torch, "save", dying)
    with pytest.raises((PowerLoss, FileNotFoundError)):
        prune("elsa", windows, kept=checkpoints(tmp_path))
    monkeypatch.setattr(torch, "save", save)
    kept = checkpoints(tmp_path)
    assert kept.step() == 3
    result, _, _ = prune("elsa", windows, kept=kept)
    assert_same(result, expected)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000007.pt", "step-00000008.pt"]


def test_a_full_disk_is_reported_and_the_run_goes_on(tmp_path, windows, monkeypatch, caplog):
    expected, _, _ = prune("elsa", windows)

    def full(state, path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    result, _, _ = prune("elsa", windows, kept=checkpoints(tmp_path))
    assert_same(result, expected)
    assert "No space left on device" in caplog.text
    assert list(tmp_path.iterdir()) == []


def test_the_state_of_another_run_is_refused_with_what_differs(tmp_path, windows):
    prune("elsa", windows, kept=checkpoints(tmp_path, **{"data.train[16]": "abc", "model.sha256": "1"}))
    with pytest.raises(UserError, match=r"saved by another run \(data\.train\[16\] was abc and is xyz\); delete"):
        checkpoints(tmp_path, **{"data.train[16]": "xyz", "model.sha256": "1"}).latest()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_stop_saves_first(tmp_path, windows, number, monkeypatch):
    expected, _, _ = prune("elsa", windows)
    kept = RunCheckpoints(tmp_path, 60, 2, dict)
    update = Admm.after_step

    def with_signal(self, step):
        if step == 5:
            os.kill(os.getpid(), number)
        return update(self, step)

    monkeypatch.setattr("elsa.method.elsa.Admm.after_step", with_signal)
    with pytest.raises(Stopped, match="after step 5; the same command goes on") as stopped:
        prune("elsa", windows, kept=kept)
    assert stopped.value.exit_code == 128 + number
    monkeypatch.undo()
    result, _, _ = prune("elsa", windows, kept=checkpoints(tmp_path))
    assert_same(result, expected)


def test_the_seconds_of_both_parts_are_counted(tmp_path, windows):
    with pytest.raises(PowerLoss):
        prune("elsa", windows, kept=Interrupted(tmp_path, 0, 2, dict, at=STEPS))
    kept = checkpoints(tmp_path)
    prune("elsa", windows, kept=kept)
    assert 0 < kept.seconds_before < 60


def test_sigusr1_saves_and_goes_on(tmp_path, windows):
    kept = RunCheckpoints(tmp_path, 60, 2, dict)
    with kept.listening():
        os.kill(os.getpid(), signal.SIGUSR1)
        assert kept.due()
        kept.save(3, {"step": 3})
        assert not kept.due()
    assert kept.step() == 3


@pytest.mark.parametrize("method", ["finetuned", "elsa_plus"])
def test_what_starts_from_another_method_goes_on_without_it(tmp_path, windows, monkeypatch, method):
    with pytest.raises(PowerLoss):
        prune(method, windows, kept=Interrupted(tmp_path, 0, 2, dict, at=2))
    start = type(METHODS[method].start)
    monkeypatch.setattr(start, "apply", lambda self, model, task: pytest.fail("the start ran again"))
    _, facts, _ = prune(method, windows, kept=checkpoints(tmp_path))
    assert facts["calibration_tokens"] == 8 * 16


def flipped(path):
    """One bit of a tensor another: the file still loads."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def as_folder(path):
    path.unlink()
    path.mkdir()


def planted(path):
    """A pickle that would make a file when it is loaded."""
    path.write_bytes(pickle.dumps(Planted(str(path.parent / "executed"))))


class Planted:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


STATE = {"format": 1, "fingerprint": {}, "seconds": 1.0, "step": 8}
DAMAGE = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("no state"),
    "a bit": flipped,
    "a folder": as_folder,
    "another format": lambda path: torch.save({"step": 8, "weights": {}}, path),
    "a later format": lambda path: torch.save(STATE | {"format": 2}, path),
    "a list": lambda path: torch.save([1], path),
    "without its step": lambda path: torch.save({key: STATE[key] for key in STATE if key != "step"}, path),
    "a pickle": planted,
    "a pickle in a torch file": lambda path: torch.save(Planted(str(path.parent / "executed")), path),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_state_is_named_and_the_one_before_is_taken(tmp_path, caplog, damage):
    caplog.set_level("INFO", "elsa")
    before = RunCheckpoints(tmp_path, 0, 2, dict)
    for step in (7, 8):
        before.save(step, {"step": step, "weights": torch.arange(1000)})
    damage(tmp_path / "step-00000008.pt")
    kept = RunCheckpoints(tmp_path, 0, 2, dict)
    assert kept.exist()
    assert kept.step() == 7
    assert torch.equal(kept.latest()["weights"], torch.arange(1000))
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"{tmp_path}/step-00000008.pt: no whole state (")
    assert first.endswith("); an older one is tried")
    assert second == f"{tmp_path}/step-00000007.pt: going on after step 7"
    assert not (tmp_path / "executed").exists()
    kept.save(9, {"step": 9})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-00000007.pt", "step-00000009.pt"]


def test_where_every_state_is_damaged_training_starts_anew_and_says_so(tmp_path, windows, caplog):
    expected, _, _ = prune("elsa", windows)
    for step in (3, 5):
        (tmp_path / f"step-{step:08d}.pt").write_bytes(b"junk")
    (tmp_path / "step-x.pt").write_bytes(b"")
    kept = checkpoints(tmp_path)
    assert not kept.exist()
    assert kept.step() == 0
    result, _, _ = prune("elsa", windows, kept=kept)
    assert_same(result, expected)
    assert caplog.text.count("there is no other, so training starts anew") == 1
    kept.discard()
    assert not tmp_path.exists()


def test_damaged_states_go_with_the_others_once_the_run_needs_none(tmp_path):
    folder = tmp_path / "checkpoints"
    RunCheckpoints(folder, 0, 2, dict).save(1, {"step": 1})
    (folder / "step-00000002.pt").write_bytes(b"junk")
    (folder / ".step-00000003.part-12345678.pt").write_bytes(b"left by a killed process")
    kept = RunCheckpoints(folder, 0, 2, dict)
    assert kept.step() == 1
    kept.discard()
    assert not folder.exists()
