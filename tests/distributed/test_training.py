"""Training that several ranks share: with sums in a fixed order the bits of one, without it the same promises."""

import hashlib
import itertools
import json
import pickle
import shutil
from dataclasses import replace

import pytest
import torch

from elsa.admm.penalty import Auto, Cosine
from elsa.checkpoint.resume import RunCheckpoints
from elsa.distributed.ranks import ONE
from elsa.distributed.sharding import gathered, tree_sum
from elsa.errors import Stopped, UserError
from elsa.files import file_hash
from elsa.method.base import Task
from elsa.method.elsa import Elsa
from elsa.method.elsa_plus import ElsaPlus
from elsa.method.finetuned import FineTuned
from elsa.method.magnitude import Magnitude
from elsa.method.wanda import Wanda
from elsa.model.weights import prunable_weights
from elsa.sparsity.pattern import Pattern
from elsa.train import low_bit
from tests import conftest
from tests.conftest import random_model
from tests.method.methods import PRECISION
from tests.method.methods import TRAINING as ITS_TRAINING
from tests.ranks import on_ranks

TRAINING = replace(ITS_TRAINING, steps=8, accumulation=4, autocast="none", fixed_order=True)
UNSTRUCTURED = Pattern(pattern="unstructured", ratio=0.9)
LEVELS = replace(UNSTRUCTURED, allocation="levels", levels={"*.mlp.*": 0.95, "*.0.self_attn.*": 0.5})
PATTERNS = {
    "90 %": UNSTRUCTURED,
    "2:4": Pattern(pattern="2:4", ratio=None),
    "global": replace(UNSTRUCTURED, allocation="global"),
}
METHODS = {
    "auto": (Elsa(interval=2), Auto()),
    "cosine": (Elsa(interval=2), Cosine(end=0.1)),
    "elsa_plus": (ElsaPlus(interval=1, start=Wanda(calibration_windows=8)), Auto()),
    "with a dual": (ElsaPlus(interval=1, hard=False, start=None, retention=0.5), Auto()),
    "finetuned": (FineTuned(start=Magnitude()), Auto()),
}
PRECISIONS = {
    "fp32": PRECISION,
    "chunks": replace(PRECISION, loss_chunk=8, activation_checkpointing=True),
    "fp8 state": replace(PRECISION, state="float8"),
    "paper": replace(PRECISION, state="float8", dual="bfloat16"),
    "8-bit moments": replace(PRECISION, moments="8bit"),
}


def trained(ranks, method, pattern=UNSTRUCTURED, family="llama", context=False, **changes):
    """The weights after it, whole on the first rank, and the metrics. `context`: not all is scored."""
    conftest.CONFIGS["opt"].dropout, low_bit._LEAST = 0.1, 1024  # in the processes of other ranks too
    model, logged = random_model(family), []
    windows = torch.randint(0, 300, (64, 16), generator=torch.Generator().manual_seed(1)).int()
    if context:
        windows.view(8, 8, 16)[:, :3, 4:].bitwise_not_()  # −1 − id
    torch.manual_seed(0)
    its_method, penalty = METHODS[method]
    given = {"training": TRAINING, "precision": PRECISION, "penalty": penalty, "probe_every": 2} | changes
    its_method.apply(
        model,
        Task(
            pattern=pattern, windows=lambda count: windows[:count], ranks=ranks,
            log=lambda step, metrics: logged.append((step, metrics)), **given,
        ),
    )  # fmt: skip
    if ranks.size > 1:
        weights = list(prunable_weights(model).values())
        assert all(weight.value_OI.numel() < weight.numel for weight in weights)  # and no copy on every rank
    return (gathered(model, ranks) if ranks.size > 1 else model.state_dict()), logged


def digest(state):
    found = hashlib.sha256()
    for name, tensor in sorted(state.items()):
        found.update(name.encode() + tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
    return found.hexdigest()


def _digests(ranks, cases):
    found = [trained(ranks, *arguments, **changes)[0] for arguments, changes in cases]
    return [digest(state) for state in found] if ranks.first else None


CASES = {
    **{f"{method} {pattern}": ((method, PATTERNS[pattern]), {}) for method in METHODS for pattern in PATTERNS},
    **{name: (("auto",), {"precision": precision}) for name, precision in PRECISIONS.items()},
    **{family: (("auto", UNSTRUCTURED, family), {}) for family in ("opt", "gpt2", "gemma2")},
    **{
        pattern: (("elsa_plus", Pattern(pattern=pattern, ratio=None)), {})
        for pattern in ("transposable_2:4", "paired_4:8")
    },
    "levels": (("auto", LEVELS), {}),
    "distilled": (("cosine",), {"training": replace(TRAINING, distillation=0.5, hidden_distillation=1.0)}),
    "bf16 autocast": (("auto",), {"training": replace(TRAINING, autocast="bfloat16")}),
    "answers": (("auto",), {"context": True}),
    "sgd": (("finetuned",), {"training": replace(TRAINING, optimizer="sgd")}),
}


@pytest.mark.parametrize(
    ("size", "every"), [(2, 4), (4, 7), *(pytest.param(size, 1, marks=pytest.mark.slow) for size in (2, 4))]
)
def test_any_number_of_ranks_gives_the_same_bits_where_sums_have_a_fixed_order(size, every):
    cases = dict(list(CASES.items())[::every])
    expected, found = (on_ranks(ranks, _digests, list(cases.values()))[0] for ranks in (1, size))
    assert dict(zip(cases, found, strict=True)) == dict(zip(cases, expected, strict=True))


def _promises(ranks, pattern, precision):
    """On three ranks: zeros of each weight, and the logged metrics."""
    training = replace(TRAINING, batch_size=6, accumulation=1, fixed_order=False)
    state, logged = trained(ranks, "auto", pattern, training=training, precision=precision)
    names = set(prunable_weights(random_model("llama")))
    return {name: int((tensor == 0).sum()) for name, tensor in state.items() if name in names}, logged


@pytest.mark.parametrize("released", [False, True], ids=["kept", "released"])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS.keys())
def test_without_it_counts_are_exact_on_uneven_parts_and_losses_are_those_of_one(pattern, released):
    precision = replace(PRECISION, gradient_release=released)
    expected, its_logged = _promises(ONE, pattern, precision)
    found, logged = on_ranks(3, _promises, pattern, precision)[0]
    assert sum(found.values()) == sum(expected.values())
    if pattern.allocation == "uniform":
        assert found == expected
    for (step, metrics), (its_step, its_metrics) in zip(logged[:1], its_logged[:1], strict=True):
        assert step == its_step
        assert metrics["loss"] == pytest.approx(its_metrics["loss"], rel=1e-6)
        for key in ("penalty", "relative_residual", "off_support_energy", "dual_residual", "probe_loss_sparse"):
            assert metrics[key] == pytest.approx(its_metrics[key], rel=1e-3), key
    assert [metrics["penalty"] for _, metrics in logged] == [metrics["penalty"] for _, metrics in its_logged]


class _StopsAfter(RunCheckpoints):
    def __init__(self, folder, stop, ranks):
        super().__init__(folder, 0, 2, dict, ranks)
        self._stop = stop

    def save(self, step, state):
        super().save(step, state)
        if step == self._stop:
            raise Stopped(15, "")


def _low_precision(ranks):
    """Zeros and bytes of Elsa-L on two ranks, where bf16 weights are rounded at random."""
    precision = replace(PRECISION, weights="bfloat16", moments="8bit", state="float8", gradient_release=True)
    training = replace(TRAINING, batch_size=4, accumulation=1, fixed_order=False)
    state, logged = trained(ranks, "auto", training=training, precision=precision)
    names = set(prunable_weights(random_model("llama")))
    assert not state or {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    return {name: int((tensor == 0).sum()) for name, tensor in state.items() if name in names}, logged[-1][1]["loss"]


def test_elsa_l_trains_on_several_ranks_too():
    (zeros, loss), (its_zeros, its_loss) = on_ranks(2, _low_precision)[0], _low_precision(ONE)
    assert zeros == its_zeros
    assert loss == pytest.approx(its_loss, rel=0.01)


def _goes_on(ranks, folder, stop, method, precision, family="llama"):
    kept = _StopsAfter(folder, stop, ranks)
    try:
        state, _ = trained(ranks, method, family=family, precision=precision, checkpoints=kept)
    except Stopped:
        return None
    return digest(state) if ranks.first else None


ORDERS = {"auto": (2, 4, 1), "with a dual": (4, 1, 2), "elsa_plus": (1, 2, 2), "finetuned": (2, 4, 1)}


@pytest.mark.parametrize(
    ("method", "order"),
    [
        pytest.param(method, order, id=f"{method}-{order}", marks=() if ORDERS[method] == order else pytest.mark.slow)
        for method in ORDERS
        for order in ((2, 4, 1), (1, 2, 2), (4, 1, 2))
    ],
)
def test_a_run_goes_on_with_another_number_of_ranks(tmp_path, method, order):
    moments = "float32" if 4 in order else "8bit"  # of these models four ranks would cut the blocks
    precision = replace(PRECISIONS["fp8 state"], moments=moments)
    (expected,) = on_ranks(1, _goes_on, tmp_path / "whole", None, method, precision)
    for size, stop in zip(order, (3, 5, None), strict=True):
        found = on_ranks(size, _goes_on, tmp_path / "parts", stop, method, precision)[0]
    assert found == expected


@pytest.mark.parametrize("family", ["gpt2", "opt"])  # weights stored as [I, O]; dropout
def test_so_it_does_in_other_families(tmp_path, family):
    given = ("auto", PRECISIONS["fp8 state"], family)
    (expected,) = on_ranks(1, _goes_on, tmp_path / "whole", None, *given)
    for size, stop in ((2, 3), (1, 5), (4, None)):  # one process hands over the whole of everything
        found = on_ranks(size, _goes_on, tmp_path / "parts", stop, *given)[0]
    assert found == expected


class Planted:
    """Makes a file when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (self.path, "w"))


def _newest(ranks, folder):
    kept = _StopsAfter(folder, None, ranks)
    step = kept.step()
    kept.latest()
    return step


def test_nothing_in_a_state_is_executed(tmp_path):
    on_ranks(2, _goes_on, tmp_path, 5, "auto", PRECISION)
    folder = tmp_path / "step-00000005"
    (folder / ".metadata").write_bytes(pickle.dumps(Planted(str(tmp_path / "executed"))))
    sums = json.loads((folder / "checksums.json").read_text())
    sums[".metadata"] = file_hash(folder / ".metadata")
    (folder / "checksums.json").write_text(json.dumps(sums))
    assert on_ranks(2, _newest, tmp_path) == [4, 4]
    assert not (tmp_path / "executed").exists()


def _damage(path, how):
    content = path.read_bytes()
    middle = len(content) // 2
    if how == "gone":
        path.unlink()
    elif how == "cut":
        path.write_bytes(content[:middle])
    else:
        path.write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])


def _newest_of_each(ranks, folders):
    return {folder.name: _newest(ranks, folder) for folder in folders}


def test_a_damaged_state_is_passed_over(tmp_path):
    whole = tmp_path / "whole"
    on_ranks(2, _goes_on, whole, 5, "auto", PRECISION)
    assert sorted(path.name for path in whole.iterdir()) == ["step-00000004", "step-00000005"]
    files, ways = ("__1_0.distcp", "rest.pt", ".metadata", "checksums.json"), ("cut", "flipped", "gone")
    folders = []
    for file, how in itertools.product(files, ways):
        folders.append(shutil.copytree(whole, tmp_path / f"{file} {how}"))
        _damage(folders[-1] / "step-00000005" / file, how)
    found = on_ranks(2, _newest_of_each, [whole, *folders])
    assert found == [{"whole": 5} | {folder.name: 4 for folder in folders}] * 2


def test_what_cannot_be_dealt_out_is_refused():
    for changes, size, line in [
        ({"batch_size": 2, "accumulation": 1}, 4, "batch_size=2: 4 ranks need a multiple of 4 windows a step"),
        ({"accumulation": 2}, 4, "accumulation=2: at least the 4 ranks"),
        ({"batch_size": 12, "accumulation": 12}, 3, "fixed_order=True: keeps its promise on 1, 2, 4, 8"),
        ({"batch_size": 12, "accumulation": 4, "fixed_order": False}, 3, "accumulation=4: a multiple of the 3 ranks"),
    ]:
        with pytest.raises(UserError, match=line):
            replace(TRAINING, **changes).check_ranks(size)
    replace(TRAINING, batch_size=6, accumulation=1, fixed_order=False).check_ranks(3)


def _too_many(ranks):
    with pytest.raises(UserError, match="this many ranks cut blocks of model"):
        trained(ranks, "auto", precision=PRECISIONS["8-bit moments"])
    return True


def test_blocks_of_moments_that_ranks_would_cut_are_refused_where_bits_are_promised():
    assert all(on_ranks(4, _too_many))


def test_a_tree_of_sums_does_not_depend_on_how_it_is_cut():
    parts = list(torch.randn(12, 5, generator=torch.Generator().manual_seed(0)) * 1e4)
    whole = tree_sum(parts)
    for size in (2, 4):
        assert torch.equal(tree_sum([tree_sum(parts[i : i + size]) for i in range(0, 12, size)]), whole)
    torch.testing.assert_close(whole, torch.stack(parts).sum(0))
