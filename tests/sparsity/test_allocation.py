import pytest
import torch

from elsa.sparsity.allocation import LEAST_DENSITY, allocate


def weights(*scales, size=(100, 50)):
    generator = torch.Generator().manual_seed(0)
    return {f"w{i}": scale * torch.rand(size, generator=generator) for i, scale in enumerate(scales)}


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.99])
def test_the_budget_is_met_exactly_and_equal_weights_get_equal_shares(sparsity):
    zeros = allocate(weights(1.0, 1.0, 1.0).items(), sparsity)
    assert sum(zeros.values()) == round(sparsity * 15_000)
    assert max(zeros.values()) - min(zeros.values()) <= 0.02 * 15_000


def test_zeros_go_where_the_saliency_is_low_as_one_sort_of_all_would_place_them():
    found = weights(1.0, 2.0, 4.0)
    zeros = allocate(found.items(), 0.5)
    every = torch.cat([saliency.flatten() for saliency in found.values()])
    threshold = every.sort().values[7_500]
    for name, saliency in found.items():
        assert zeros[name] == pytest.approx(int((saliency < threshold).sum()), abs=0.02 * 5_000)
    assert sum(zeros.values()) == 7_500


def test_no_weight_is_cut_off_and_the_others_carry_what_it_cannot():
    zeros = allocate(weights(1e-9, 1.0, 2.0).items(), 0.5)
    assert zeros["w0"] == int(5_000 * (1 - LEAST_DENSITY * 0.5))
    assert sum(zeros.values()) == 7_500


def test_one_value_everywhere_is_shared_out_evenly():
    zeros = allocate({name: torch.full((7, 11), 3.0) for name in "abc"}.items(), 0.5)
    assert sum(zeros.values()) == round(0.5 * 231)
    assert set(zeros.values()) <= {38, 39}


def test_weights_without_saliency_are_zeroed_first():
    zeros = allocate({"dead": torch.zeros(10, 10), "alive": torch.ones(10, 10)}.items(), 0.4)
    assert zeros == {"dead": 80, "alive": 0}


@pytest.mark.parametrize("sparsity", [0.1, 1 / 3, 0.45, 0.5])
@pytest.mark.parametrize("sizes", [[3] * 5, [9, 3, 17, 5], [7, 13, 101, 3, 5, 11]])
def test_entries_that_tie_are_shared_out_in_proportion_and_sum_to_the_budget(sizes, sparsity):
    zeros = allocate({number: torch.ones(size) for number, size in enumerate(sizes)}.items(), sparsity)
    assert sum(zeros.values()) == round(sparsity * sum(sizes))
    assert all(abs(zeros[number] - sparsity * size) <= 1 for number, size in enumerate(sizes))


@pytest.mark.parametrize(("sparsity", "most"), [(0.5, 95), (0.8, 98), (0.2, 92)])
def test_a_weight_keeps_a_tenth_of_its_equal_share_at_least(sparsity, most):
    zeros = allocate({"dead": torch.zeros(100), "alive": torch.ones(900)}.items(), sparsity)
    assert zeros == {"dead": most, "alive": round(1000 * sparsity) - most}


@pytest.mark.parametrize(("other", "expected"), [(1.03, (40, 40)), (1.04, (80, 0))])
def test_saliencies_within_3_percent_count_as_equal(other, expected):
    zeros = allocate({"low": torch.ones(100), "high": torch.full((100,), other)}.items(), 0.4)
    assert (zeros["low"], zeros["high"]) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_saliencies_of_any_dtype_are_placed_as_in_fp32(dtype):
    found = {name: saliency.to(dtype) for name, saliency in weights(1.0, 2.0, 4.0).items()}
    expected = allocate(((name, saliency.float()) for name, saliency in found.items()), 0.7)
    assert allocate(found.items(), 0.7) == expected
