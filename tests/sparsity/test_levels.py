import itertools

import pytest

from elsa.errors import UserError
from elsa.sparsity.allocation import patterns_by_level, patterns_of
from elsa.sparsity.levels import normalised, read_levels, shared_out, wanted_levels, zeros_by_level
from elsa.sparsity.pattern import Pattern

SIZES = {
    f"model.layers.{index}.{name}.weight": size
    for index in range(3)
    for name, size in {"self_attn.q_proj": 1_009, "mlp.up_proj": 2_003, "mlp.down_proj": 2_011}.items()
}


def of(levels, ratio=0.7):
    return Pattern(pattern="unstructured", ratio=ratio, allocation=None, levels=levels).allocated("uniform")


def test_the_first_glob_that_matches_counts_and_the_others_get_the_ratio():
    levels = {"model.layers.0.*": 0.1, "*.mlp.*": 0.9, "*.down_proj": 0.2}
    with pytest.raises(UserError, match=r"levels=\*\.upproj: no prunable weight"):
        wanted_levels({"*.upproj": 0.1}, list(SIZES), 0.5)
    found = dict(zip(SIZES, wanted_levels(levels, list(SIZES), 0.5), strict=True))
    assert {found[f"model.layers.0.{name}.weight"] for name in ("self_attn.q_proj", "mlp.down_proj")} == {0.1}
    assert {found[f"model.layers.{index}.mlp.down_proj.weight"] for index in (1, 2)} == {0.9}
    assert found["model.layers.2.self_attn.q_proj.weight"] == 0.5


@pytest.mark.parametrize("ratio", [0.0, 0.05, 0.5, 0.7, 0.9, 0.99])
@pytest.mark.parametrize("levels", [{"*.mlp.*": 0.95, "*.self_attn.*": 0.8}, {"*.up_proj": 0.3}, {"*.1.*": 0.99}])
def test_the_budget_is_met_to_the_last_zero_and_the_order_of_levels_stays(levels, ratio):
    wanted = wanted_levels(levels, list(SIZES), ratio)
    zeros = zeros_by_level(levels, SIZES, ratio)
    assert sum(zeros.values()) == round(ratio * sum(SIZES.values()))
    shares = [zeros[name] / size for name, size in SIZES.items()]
    for (one, its), (other, theirs) in itertools.combinations(zip(wanted, shares, strict=True), 2):
        assert one == other or ratio == 0 or (one < other) == (its < theirs)
        if one == other:
            assert its == pytest.approx(theirs, abs=2e-3)


def test_levels_that_make_the_ratio_stay_as_they_are():
    wanted, sizes = [0.9, 0.5, 0.7], [100, 100, 200]
    assert normalised(wanted, sizes, 0.7) == pytest.approx(wanted, abs=1e-12)


def test_a_level_of_zero_keeps_a_weight_dense_at_any_ratio():
    zeros = zeros_by_level({"*.down_proj": 0.0}, SIZES, 0.55)
    assert {count for name, count in zeros.items() if "down_proj" in name} == {0}
    assert sum(zeros.values()) == round(0.55 * sum(SIZES.values()))
    with pytest.raises(UserError, match=r"levels: only 60\.0% of the weights have one above 0, so ratio=0\.7"):
        zeros_by_level({"*.down_proj": 0.0}, SIZES, 0.7)


def test_shares_are_given_out_so_that_roundings_do_not_add_up():
    sizes = dict.fromkeys("abcdefg", 3)
    zeros = shared_out(dict.fromkeys("abcdefg", 0.5), sizes)
    assert sum(zeros.values()) == round(0.5 * 21)
    assert set(zeros.values()) == {1, 2}
    assert shared_out({"a": 0.999, "b": 0.5}, {"a": 3, "b": 100}) == {"a": 2, "b": 51}


def test_each_weight_has_a_pattern_of_its_own_while_the_sparsity_rises_too():
    pattern = of({"*.mlp.*": 0.95, "*.self_attn.*": 0.8}, 0.9)
    assert (pattern.name, pattern.allocation) == ("90% levels", "levels")
    assert Pattern.allocation_of(pattern.name) == "levels"
    assert pattern.spent().name == "90%"
    for each in (pattern, pattern.ramped(0.4)):
        patterns = patterns_of(each, SIZES, None)
        assert patterns == patterns_by_level(each, SIZES)
        total = sum(its.zeros(SIZES[name]) for name, its in patterns.items())
        assert total == round(each.sparsity * sum(SIZES.values()))


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"levels": {"*": 1.0}}, r"levels=\*: 1: the fraction of zeros lies in \[0, 1\)"),
        ({"levels": {"*": -2.0}}, r"levels=\*: -2: "),
        ({"levels": {}}, "levels={}: "),
        ({"levels": {"*": 0.5}, "allocation": "global"}, "allocation=global: levels say where the zeros go"),
        ({"levels": {"*": 0.5}, "allocation": "uniform"}, "allocation=uniform: levels say where the zeros go"),
        ({"allocation": "levels"}, r"allocation=levels: it needs sparsity\.levels"),
        ({"levels": {"*": 0.5}, "pattern": "2:4", "ratio": None}, "levels=.*2:4 is uniform in every group"),
    ],
)
def test_what_cannot_be_is_refused(changed, line):
    given = {"pattern": "unstructured", "ratio": 0.5, "allocation": None} | changed
    with pytest.raises(UserError, match=line):
        Pattern(**given)


@pytest.mark.parametrize(
    "text",
    [
        "model.layers.0.mlp.up_proj: 0.25\nmodel.layers.1.mlp.up_proj: 0.75",  # as EvoPress writes them
        "# found by a search\n'model.layers.0.mlp.up_proj': 0.25\n\nmodel.layers.1.mlp.up_proj:0.75\n",
        '{"model.layers.0.mlp.up_proj": 0.25, "model.layers.1.mlp.up_proj": 0.75}',
    ],
)
def test_files_of_levels(tmp_path, text):
    (tmp_path / "levels").write_text(text)
    found = read_levels("levels", tmp_path / "levels")
    assert list(found.items()) == [("model.layers.0.mlp.up_proj", 0.25), ("model.layers.1.mlp.up_proj", 0.75)]


@pytest.mark.parametrize("text", ["mlp 0.5", "*.mlp.*: high", '{"a": [1]}', '{"a": 0.5'])
def test_broken_files_are_refused_by_name(tmp_path, text):
    (tmp_path / "levels.txt").write_text(text)
    with pytest.raises(UserError, match=r"levels\.txt: "):
        read_levels("levels", tmp_path / "levels.txt")
    with pytest.raises(UserError, match=r"levels=.*none\.txt: no such file"):
        read_levels("levels", tmp_path / "none.txt")
