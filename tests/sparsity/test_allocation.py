import pytest
import torch

from elsa.sparsity.allocation import LEAST_DENSITY, allocate


def placed(saliencies, sparsity, **options):
    return allocate(saliencies.__getitem__, saliencies, sparsity, **options)


def weights(*scales, size=(100, 50)):
    generator = torch.Generator().manual_seed(0)
    return {f"w{i}": scale * torch.rand(size, generator=generator) for i, scale in enumerate(scales)}


@pytest.mark.parametrize("sparsity", [0.0, 0.3, 0.5, 0.9, 0.99])
def test_the_budget_is_met_exactly_and_equal_weights_get_equal_shares(sparsity):
    zeros = placed(weights(1.0, 1.0, 1.0), sparsity)
    assert sum(zeros.values()) == round(sparsity * 15_000)
    assert max(zeros.values()) - min(zeros.values()) <= 0.02 * 15_000


@pytest.mark.parametrize("sparsity", [0.1, 0.3, 0.4])
def test_zeros_go_where_the_saliency_is_low_as_one_sort_of_all_places_them(sparsity):
    found = weights(1.0, 2.0, 4.0)
    zeros = placed(found, sparsity, least_density=0.0)
    threshold = torch.cat([saliency.flatten() for saliency in found.values()]).sort().values[round(sparsity * 15_000)]
    assert zeros == {name: int((saliency < threshold).sum()) for name, saliency in found.items()}


def test_without_a_floor_a_weight_may_lose_all_but_one():
    zeros = placed({"dead": torch.zeros(100), "alive": torch.ones(900)}, 0.5, least_density=0.0)
    assert zeros == {"dead": 99, "alive": 401}


def test_no_weight_is_cut_off_and_the_others_carry_what_it_cannot():
    zeros = placed(weights(1e-9, 1.0, 2.0), 0.5)
    assert zeros["w0"] == int(5_000 * (1 - LEAST_DENSITY * 0.5))
    assert sum(zeros.values()) == 7_500


def test_one_value_everywhere_is_shared_out_evenly():
    zeros = placed({name: torch.full((7, 11), 3.0) for name in "abc"}, 0.5)
    assert sum(zeros.values()) == round(0.5 * 231)
    assert set(zeros.values()) <= {38, 39}


def test_weights_without_saliency_are_zeroed_first():
    zeros = placed({"dead": torch.zeros(10, 10), "alive": torch.ones(10, 10)}, 0.4)
    assert zeros == {"dead": 80, "alive": 0}


@pytest.mark.parametrize("sparsity", [0.1, 1 / 3, 0.45, 0.5])
@pytest.mark.parametrize("sizes", [[3] * 5, [9, 3, 17, 5], [7, 13, 101, 3, 5, 11]])
def test_entries_that_tie_are_shared_out_in_proportion_and_sum_to_the_budget(sizes, sparsity):
    zeros = placed({number: torch.ones(size) for number, size in enumerate(sizes)}, sparsity)
    assert sum(zeros.values()) == round(sparsity * sum(sizes))
    assert all(abs(zeros[number] - sparsity * size) <= 1 for number, size in enumerate(sizes))


@pytest.mark.parametrize(("sparsity", "most"), [(0.5, 95), (0.8, 98), (0.2, 92)])
def test_a_weight_keeps_a_tenth_of_its_equal_share_at_least(sparsity, most):
    zeros = placed({"dead": torch.zeros(100), "alive": torch.ones(900)}, sparsity)
    assert zeros == {"dead": most, "alive": round(1000 * sparsity) - most}


def test_the_smallest_difference_decides():
    above = torch.tensor(1.0).nextafter(torch.tensor(2.0))
    assert placed({"low": torch.ones(100), "high": above.expand(100)}, 0.4) == {"low": 80, "high": 0}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_saliencies_of_any_dtype_are_placed_as_in_fp32(dtype):
    found = {name: saliency.to(dtype) for name, saliency in weights(1.0, 2.0, 4.0).items()}
    expected = placed({name: saliency.float() for name, saliency in found.items()}, 0.7)
    assert placed(found, 0.7) == expected
