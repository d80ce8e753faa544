import pytest

from elsa.config.build import build
from elsa.config.checks import Answers, check_prune
from elsa.config.compose import compose
from elsa.config.prune import PruneConfig
from elsa.errors import UserError
from elsa.model.loading import ModelSource


def refuse(match, *overrides):
    with pytest.raises(UserError, match=match) as caught:
        check_prune(build(PruneConfig, compose(*overrides)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["sparsity.ratio=1.5"], r"sparsity\.ratio=1\.5: .*\[0, 1\)"),
        (["sparsity.ratio=banana"], r"sparsity\.ratio=banana: .*number"),
        (["sparsity=2of4", "sparsity.ratio=0.7"], r"sparsity\.ratio=0\.7: pattern 2:4 means 0\.5"),
        (["sparsity=n_of_m", "sparsity.pattern=3:5"], r"sparsity\.pattern=3:5: .*has 192 inputs, no multiple of 5"),
        (
            ["sparsity=transposable_2of4", "devices=64", "training.batch_size=64"],
            r"devices=64: .*no multiple of the 4 of transposable_2:4",
        ),
        (["sparsity=paired_4of8", "method=swaps"], r"sparsity\.pattern=paired_4:8: method=wanda\+swaps exchanges"),
        (["sparsity.allocation=owl"], r"sparsity\.allocation=owl: method=elsa counts no outliers"),
        (["model.exclude=[*.downproj]"], r"model\.exclude=\*\.downproj: no prunable weight"),
        (["training.steps=8"], r"method\.interval=32: at most training\.steps=8"),
        (["training.steps=1.5"], r"training\.steps=1\.5: .*integer"),
        (["training.optimizer=sgd"], r"method\.projection=objective_aware: needs second moments.*optimizer=sgd"),
        (["training.optimizer=adan"], r"training\.optimizer=adan: known: adam, sgd"),
        (["training.accumulation=3"], r"training\.accumulation=3: a divisor of batch_size=8"),
        (["+method.foo=1"], r"method\.foo=1: no such key; known: .*interval"),
        (["+training.learning_rat=1"], r"no such key; did you mean 'learning_rate'"),
        (["penalty=exponential", "penalty.start=0.0"], r"penalty\.start=0\.0"),
        (["data=text", "data.train=[/no/such.jsonl]"], r"data\.train=/no/such\.jsonl: no such file"),
        (["data=text"], r"data\.train=\[\]: this run needs the split"),
        (["data=tokens"], r"data\.path=\?\?\?: must be given"),
        (["data.sequence_length=5000"], r"data\.sequence_length=5000: model=tiny takes windows up to 1024"),
        (["model=pretrained"], r"model\.path=\?\?\?: must be given"),
        (["model=pretrained", "model.path=./nope"], r"model\.path=\./nope: no such folder"),
        (["model.dtype=fp32"], r"model\.dtype=fp32: known: float32"),
        (["device=cuda:7"], r"device=cuda:7: known here: auto, cpu"),
        (["eval.sets=5"], r"eval\.sets=5: a group of keys is wanted"),
        (["eval.windows=0"], r"eval\.windows=0: at least 1"),
        (["method=finetuned", "method.start=spasegpt"], r"method\.start=spasegpt: did you mean 'sparsegpt'"),
        (["method._target_=os.system"], r"method\._target_=os\.system: no dataclass of this package"),
        (["method._target_=elsa.sparsity.pattern.Pattern"], r"method\.\w+=.*no such key"),
        (["+tracker.foo=1"], r"tracker\.foo=1: no such key"),
    ],
)
def test_what_cannot_run_is_refused_in_one_line_with_key_value_and_remedy(overrides, message):
    refuse(message, *overrides)


def test_a_value_where_a_group_belongs_is_refused():
    with pytest.raises(UserError, match="tracker=5: a group of keys is wanted"):
        build(PruneConfig, compose() | {"tracker": 5})


def test_objects_hold_what_the_config_says():
    run = build(PruneConfig, compose("training.learning_rate=3e-4", "penalty=cosine", "penalty.end=0.2", "seed=7"))
    assert (run.training.learning_rate, run.penalty.end, run.seed) == (3e-4, 0.2, 7)


def test_runs_that_share_answers_ask_each_question_once(monkeypatch):
    built, skeleton = [], ModelSource.skeleton
    monkeypatch.setattr(ModelSource, "skeleton", lambda self, cache: built.append(self.name) or skeleton(self, cache))
    answers = Answers()
    found = [
        check_prune(build(PruneConfig, compose(*overrides)), answers)
        for overrides in (["method=wanda"], ["method=alps", "sparsity=2of4"], ["method=dense"])
    ]
    assert built == ["tiny"]
    assert found[0] == found[1] == found[2]


def test_a_failure_is_an_answer_too_but_only_to_the_same_question():
    asked, answers = [], Answers()

    def look():
        asked.append(1)
        raise UserError("path=x: no such folder")

    for decided_by in ("x", "x", "y"):
        with pytest.raises(UserError, match=r"^path=x: no such folder$"):
            answers.of("model", look, decided_by)
    assert len(asked) == 2


def test_devices_of_another_machine_are_not_looked_for_here():
    run = build(PruneConfig, compose("device=cuda:7"))
    check_prune(run, here=False)
    with pytest.raises(UserError, match="device=cuda:7"):
        check_prune(run)
