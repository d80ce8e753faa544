"""The program as a user runs it, on a small random model and a small corpus."""

import copy
import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from elsa.record.record import read_record, views
from elsa.track.none import NoTracker
from tests.run.runs import of, records
from tests.track.leet import logged

TRAINING = ["training.steps=6", "training.batch_size=2", "training.learning_rate=1e-3", "method.interval=2"]
TRAINING += ["training.autocast=none"]  # many processors emulate bf16, slowly


def test_elsa_prunes_saves_counts_evaluates_and_records(elsa, tmp_path):
    code, out, _ = elsa("method=elsa", "sparsity.ratio=0.9", "penalty=cosine", *TRAINING)
    assert code == 0
    assert "90.0" in out
    assert "100.0% of 15,360 block weights are prunable" in out
    folder, record = of("elsa")
    assert record["sparsity"]["asked"] == 0.9
    assert record["sparsity"]["counted"] == pytest.approx(0.9, abs=1e-3)
    assert record["perplexity"]["held_out"]["perplexity"] > 1
    assert {"load", "data", "prune", "save", "evaluate"} == record["seconds"].keys()
    assert record["environment"]["libraries"]["torch"] == torch.__version__
    assert record["peak_memory_bytes"] > 0
    assert record["data_sha256"].keys() == {"train[12]"}
    assert record["coverage"]["prunable"] == record["coverage"]["total"]
    assert [json.loads(line)["step"] for line in (folder / "metrics.jsonl").read_text().splitlines()] == [2, 4, 6]
    state = AutoModelForCausalLM.from_pretrained(folder / "model").state_dict()
    for name, count in record["sparsity"]["tensors"].items():
        assert count == {"zeros": int((state[name] == 0).sum()), "numel": state[name].numel()}


def test_zeros_are_counted_in_the_file_and_not_in_memory(elsa, saved_model, monkeypatch):
    save_pretrained = LlamaForCausalLM.save_pretrained

    def losing_a_zero(self, folder, **options):
        written = copy.deepcopy(self)
        weight = written.model.layers[0].mlp.up_proj.weight.data
        weight.view(-1)[(weight.flatten() == 0).nonzero()[0]] = 1.0
        save_pretrained(written, folder, **options)

    monkeypatch.setattr(LlamaForCausalLM, "save_pretrained", losing_a_zero)
    assert elsa("method=magnitude", "sparsity.ratio=0.5")[0] == 0
    tensors = of("magnitude")[1]["sparsity"]["tensors"]
    assert tensors["model.layers.0.mlp.gate_proj.weight"] == {"zeros": 768, "numel": 1536}
    assert tensors["model.layers.0.mlp.up_proj.weight"] == {"zeros": 767, "numel": 1536}


def test_dense_comes_first_and_a_finished_run_is_not_run_again(elsa):
    elsa("method=magnitude")
    assert {record["method"] for record in records().values()} == {"dense", "magnitude"}
    times = {folder: (folder / "result.json").stat().st_mtime_ns for folder in records()}
    code, out, _ = elsa("method=magnitude")
    assert code == 0
    assert out.count("finished before, not run again") == 1
    assert {folder: (folder / "result.json").stat().st_mtime_ns for folder in records()} == times


def test_an_interrupted_run_starts_again(elsa):
    elsa("method=magnitude")
    folder, record = of("magnitude")
    (folder / "result.json").unlink()
    elsa("method=magnitude")
    assert of("magnitude")[1]["sparsity"] == record["sparsity"]


def test_a_record_that_is_no_record_is_named(elsa):
    elsa("method=magnitude")
    folder, _ = of("magnitude")
    (folder / "result.json").write_text("{truncated")
    code, _, err = elsa("method=magnitude")
    assert code == 2
    assert "result.json: no valid JSON" in err


HOLDER = """
import filelock, pathlib, sys, time
with filelock.FileLock(sys.argv[1]):
    print(flush=True)
    while not pathlib.Path("waiting").exists():
        time.sleep(0.01)
"""


def test_a_run_waits_for_another_process_that_does_it(elsa, monkeypatch):
    elsa("method=magnitude")
    folder, _ = of("magnitude")

    def heard(text, *_):
        if "another process is running this very run; waiting for it" in text:
            Path("waiting").touch()

    monkeypatch.setattr("elsa.run.job._log.info", heard)
    with subprocess.Popen([sys.executable, "-c", HOLDER, folder / ".lock"], stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        assert elsa("method=magnitude")[0] == 0
    assert Path("waiting").exists()


def test_a_multirun_ends_with_table_and_picture(elsa):
    code, out, err = elsa("-m", "method=wanda,sparsegpt", "++method.calibration_windows=4")
    assert code == 0, err
    assert len(records()) == 3
    table = next(Path().glob("outputs/sweeps/*/table.md")).read_text()
    assert [line.split("|")[1].strip() for line in table.splitlines()[2:]] == [
        "dense", "wanda", "sparsegpt",
    ]  # fmt: skip
    picture = next(Path().glob("outputs/sweeps/*/perplexity.png"))
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert str(picture) in out


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
@pytest.mark.slow
def test_wandb_reads_back_a_multirun_as_one_group_with_all_that_a_run_holds(elsa):
    few = ["training.steps=8", "training.batch_size=2", "method.interval=2", "training.learning_rate=1e-3"]
    code, _, err = elsa("-m", "method=elsa", "sparsity.ratio=0.5,0.7,0.9", *few, "tracker=wandb")
    assert code == 0, err
    runs = [folder / "wandb" / "latest-run" for folder, record in records().items() if record["method"] == "elsa"]
    started = [logged(run, "run")[0] for run in runs]
    assert len({run["run_group"] for run in started}) == 1
    assert sorted(run["config"]["update"]["sparsity"] for run in started) == [0.5, 0.7, 0.9]
    assert {run["job_type"] for run in started} == {"prune"}
    assert len({run["run_id"] for run in started}) == 3
    curve = [line["item"] for line in logged(runs[0], "history")]
    assert [line["step"] for line in curve if "loss" in line] == [2, 4, 6, 8]
    held = {key.split(".")[0] for line in curve for key in line}
    assert held >= {
        "loss", "learning_rate", "tokens_per_second", "penalty", "relative_residual", "off_support_energy",
        "mask_change", "perplexity_table", "pictures/sparsity", "pictures/mask_change",
    }  # fmt: skip


def test_a_failing_job_is_reported_and_does_not_stop_the_others(elsa):
    code, _, err = elsa("-m", "method=magnitude", "sparsity.ratio=1.5,0.5")
    assert code == 2
    assert err.count("sparsity.ratio=1.5: the fraction of zeros lies in [0, 1)") == 1
    assert "1 of 2 runs failed" in err
    code, out, _ = elsa("status", model=False)
    assert (code, "1 done, 1 failed" in out) == (0, True)
    assert {record["method"] for record in records().values()} == {"dense", "magnitude"}
    sweep = next(Path().glob("outputs/sweeps/*"))
    code, _, err = elsa("report", f"records=[{sweep}]", model=False)
    assert (code, "no record of sparsity.ratio=1.5: sparsity.ratio=1.5: the fraction" in err) == (0, True)


def test_a_sweep_that_cannot_run_says_why_once_and_starts_nothing(elsa):
    code, out, err = elsa("-m", "method=wanda,alps", "sparsity.ratio=0.5,0.8", "model=opt_125m", model=False)
    assert (code, out) == (2, "4 runs to compose and check\n")
    first, more, last = err.splitlines()
    assert first.startswith("elsa: failed  method=wanda sparsity.ratio=0.5: model=opt_125m: cannot be loaded")
    assert more == "elsa: failed  3 more for the same reason as method=wanda sparsity.ratio=0.5"
    assert last == "elsa: none of 4 runs can run, so none was started"
    assert not list(Path().glob("outputs/sweeps/*"))


def test_evaluate_scores_a_run_folder_as_the_run_did(elsa, corpus):
    elsa("method=magnitude")
    folder, record = of("magnitude")
    code, out, _ = elsa("evaluate", f"checkpoint={folder}", *corpus, model=False)
    assert code == 0
    assert f"perplexity {record['perplexity']['held_out']['perplexity']:.4f}" in out
    assert of("magnitude")[1] == record


def test_evaluate_tells_the_tracker_of_the_run(elsa, corpus, monkeypatch):
    elsa("method=wanda", "method.calibration_windows=6", "sparsity=2of4")
    folder, _ = of("wanda")
    opened, closed = [], []

    class Kept(NoTracker):
        def open(self, run):
            opened.append(run)
            return self

        def close(self, outcome):
            closed.append(outcome)

    monkeypatch.setattr("elsa.track.jsonl.Jsonl.open", lambda self, run: Kept().open(run))
    asked = ["evaluate", f"checkpoint={folder}", *corpus, "eval.windows=3"]
    assert elsa(*asked, model=False)[0] == 0
    assert [(run.folder, run.name, run.step, run.labels["method"]) for run in opened] == [
        (folder, folder.name, None, "wanda")
    ]
    scores = read_record(folder)["evaluations"][-1]["perplexity"]
    assert closed[0].summary == {f"perplexity/{name}": score["perplexity"] for name, score in scores.items()}
    elsa(*asked, model=False)
    assert len(opened) == 1  # what is there is not told again


def test_evaluate_leaves_a_record_of_a_folder_that_no_run_left(elsa, corpus, saved_model):
    code, out, err = elsa("evaluate", f"checkpoint={saved_model}", *corpus, model=False)
    assert code == 0, err
    record = read_record(next(Path().glob("outputs/evaluations/*")))
    assert (record["model"], record["method"], record["sparsity"]["zeros"]) == ("a_model", "checkpoint", 0)
    assert f"perplexity {record['evaluations'][0]['perplexity']['held_out']['perplexity']:.4f}" in out
    code, out, err = elsa("report", "records=[outputs/evaluations]", model=False)
    assert code == 0, err


def test_report_averages_seeds_and_skips_what_is_no_record(elsa, tmp_path):
    for method, pattern, seed in itertools.product(("wanda", "sparsegpt"), ("unstructured/50", "2of4"), (0, 1)):
        elsa(f"method={method}", "method.calibration_windows=4", f"sparsity={pattern}", f"seed={seed}")
    foreign = tmp_path / "outputs/runs/foreign"
    foreign.mkdir()
    (foreign / "result.json").write_text("{")
    code, out, err = elsa("report", model=False)
    assert code == 0
    assert err.count("skipped") == 1
    assert "foreign/result.json" in err
    wandas = Path().glob("outputs/runs/small-wanda-0.5*")
    values = [views(read_record(each))[0]["perplexity"]["held_out"]["perplexity"] for each in wandas]
    assert f"{sum(values) / 2:,.0f} ± {abs(values[0] - values[1]) / 2**0.5:,.0f}" in out
    lines = next(Path().glob("outputs/reports/*/cells.csv")).read_text().splitlines()
    assert len(lines) == 1 + 2 * 2
    assert all((Path("outputs/runs") / run).is_dir() for run in lines[1].split(",")[-1].split())
    page = next(Path().glob("outputs/reports/*/index.html")).read_text()
    assert all(run in page for run in lines[1].split(",")[-1].split())
    assert page.count("<figure>") == 3  # perplexity by sparsity, by cost, by size
    assert 'src="' not in page
    assert {path.suffix for path in Path().glob("outputs/reports/*/perplexity_0.*")} == {".png", ".svg"}
    assert len(list(Path().glob("outputs/reports/*/runs/*.html"))) == 9
    assert r"\toprule" in next(Path().glob("outputs/reports/*/tables.tex")).read_text()
    bundle = next(Path().glob("outputs/reports/*/records.jsonl"))
    for sources in (bundle.parent, f"{bundle},outputs/runs"):  # what stands in both counts once
        _, again, _ = elsa("report", f"records=[{sources}]", "paths.outputs=elsewhere", model=False)
        assert again.replace("elsewhere", "outputs") == out


@pytest.mark.parametrize("command", ["plan", "doctor", "fetch"])
@pytest.mark.parametrize("sweep", [["-m", "method=magnitude,wanda"], ["sweep=layerwise_tiny"], ["hydra.mode=MULTIRUN"]])
def test_what_looks_at_one_run_never_starts_a_sweep(elsa, command, sweep):
    code, _, err = elsa(command, *sweep, model=False)
    assert code == 2
    assert err == f"elsa: {command}: takes one run, not a sweep; elsa -m checks every run before it starts one\n"
    assert not Path("outputs").exists()


def test_plan_says_what_fits_and_measures_a_dry_run(elsa):
    code, out, _ = elsa("plan", *TRAINING, "plan.dry_run_steps=2")
    assert code == 0
    assert "15,360 prunable" in out
    assert "16.12 bytes a prunable weight" in out
    assert "s a step" in out
    assert not Path("outputs").exists()
    code, out, err = elsa("plan", *TRAINING, "plan.device_memory_gib=0.000001")
    assert (code, err) == (2, "elsa: plan.device_memory_gib=1e-06: nothing known makes this run fit\n")
    assert "precision.gradient_release=true" in out


def test_scores_of_tasks_stand_beside_those_of_the_dense_model(elsa, tmp_path):
    rows = [{"sentence1": f"the cat {i}", "sentence2": "sat", "label": i % 2, "idx": i} for i in range(10)]
    (tmp_path / "mirror/rte").mkdir(parents=True)
    (tmp_path / "mirror/rte/validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    scoring = ["eval=full", "eval.parts.zero_shot.tasks=[rte]", f"paths.mirror={tmp_path / 'mirror'}"]
    scoring[1:1] = ["eval.parts.generation.max_new_tokens=4", "eval.parts.generation.num_fewshot=0"]
    code, _, err = elsa("method=magnitude", "sparsity.ratio=0.9", *scoring)
    assert code == 2
    assert "no gsm8k/test.jsonl there, and no gsm8k/validation.jsonl; elsa fetch copies it from the hub" in err
    (tmp_path / "mirror/gsm8k").mkdir()
    (tmp_path / "mirror/gsm8k/test.jsonl").write_text('{"question": "cat?", "answer": "#### [invalid]"}\n' * 3)
    code, out, err = elsa("method=magnitude", "sparsity.ratio=0.9", *scoring)
    assert code == 0, err
    _, record = of("magnitude")
    assert record["zero_shot"]["tasks"]["rte"]["n"] == 10
    assert record["zero_shot_against_dense"]["rte"]["n"] == 10
    assert record["generation"]["tasks"]["gsm8k"]["n"] == record["generation_against_dense"]["gsm8k"]["cut"]["n"] == 3
    assert "repeated 4-grams" in out
    code, out, _ = elsa("report", model=False)
    assert code == 0
    assert "zero-shot accuracy in %" in out
    assert next(Path().glob("outputs/reports/*/accuracy_0.png")).stat().st_size > 10_000
    assert record["perplexity"].keys() == {"held_out"}
    assert "zero-shot acc" in out
    assert "gsm8k (acc: exact_match,strict-match; 0-shot; up to 4 tokens; limited to the first 256 documents)" in out
    folder, _ = of("magnitude")
    elsa("evaluate", f"checkpoint={folder}", "eval=zero_shot", "eval.tasks=[rte]", scoring[-1], model=False)
    evaluations = read_record(folder)["evaluations"]
    assert len(evaluations) == 2
    assert evaluations[1]["zero_shot"]["tasks"] == record["zero_shot"]["tasks"]
    _, again, _ = elsa("report", model=False)
    assert again == out, "what was scored in the same way twice counts once"


def test_doctor_says_what_is_there_and_what_is_missing(elsa):
    code, out, err = elsa("doctor", "method=wanda")
    assert (code, err) == (0, "")
    assert out.endswith("ready\n")
    assert "15,360 block weights are prunable" in out
    code, out, err = elsa("doctor", "eval=zero_shot", "data.train=[nowhere.txt]")
    assert code == 2
    assert err == "elsa: doctor: data, evaluation would stop this run\n"
    assert "nowhere.txt" in out
    assert "give a folder of task data" in out
    assert not Path("outputs").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of wandb-workspaces
def test_the_dashboard_is_written_offline(elsa):
    code, _, err = elsa("dashboard", "entity=us", model=False)
    assert code == 0, err
    written = Path("dashboard.json").read_text()
    json.loads(written)
    for metric in (
        "off_support_energy",
        "relative_residual",
        "penalty",
        "tokens_per_second",
        "zero_shot/average",
        "generation/average",
    ):
        assert metric in written
    assert elsa("dashboard", model=False)[2] == "elsa: entity=???: must be given\n"


def test_help_lists_commands_groups_and_choices(elsa):
    for arguments in ([], ["--help"], ["prune", "--help"]):
        code, out, _ = elsa(*arguments, model=False)
        assert code == 0
        assert "evaluate" in out
        assert "alps, best, dense, elsa, elsa_plus, finetuned, l_admm, magnitude, reconstruct, safe, sparsegpt, " in out


def test_cfg_job_prints_the_resolved_run_and_starts_nothing(elsa):
    code, out, _ = elsa("--cfg", "job", "method=wanda", "data=stdlib", model=False)
    assert code == 0
    assert "calibration_windows: 128" in out
    assert "${" not in out
    assert not Path("outputs").exists()


@pytest.mark.parametrize("shown", ["hydra", "all"])
def test_cfg_shows_hydras_settings_too(elsa, shown):
    code, out, err = elsa("--cfg", shown, model=False)
    assert code == 0, err
    assert "sweeper:" in out


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["method=wnda"], "method=wnda: no such choice; did you mean 'wanda'?"),
        (["sparsity=2_4"], "sparsity=2_4: no such choice; known: 2of4, "),
        (["model=null"], "model=null: no such choice; known: "),
        (["methd=wanda"], "methd: no such key; did you mean 'method'?"),
        (["training.stps=3"], "training.stps: no such key; did you mean 'steps'?"),
        (["-m", "method=wanda,sparsegpt", "method.damping=1"], "method.damping: not a key of every method; in a sweep"),
        (["prun", "method=wanda"], "prun: no such command; did you mean 'prune'?"),
        (["sparsity.ratio=1.5"], "sparsity.ratio=1.5: the fraction of zeros lies in [0, 1), for example 0.9"),
        (["activations=gpu"], "activations=gpu: known: auto, device, cpu, disk"),
        (["plan", "method=wanda"], "method=wanda: plan is for methods that train"),
        (["precision=elsa_l", "training.accumulation=8"], "precision.gradient_release=True: needs one part a rank"),
        (["evaluate", "checkpoint=nowhere"], "checkpoint=nowhere: no such folder"),
        (["evaluate"], "checkpoint=???: must be given"),
        (
            ["eval=zero_shot", "eval.tasks=[arc_esy]"],
            "eval.tasks=arc_esy: lm-eval has no such task or group; did you mean 'arc_",
        ),
        (["eval=zero_shot"], "paths.mirror=null: the hub cannot be reached; give a folder of task data"),
        (["report", "records=[nowhere]"], "records=nowhere: no such folder of finished runs"),
    ],
)
def test_a_mistake_is_one_line_exit_code_2_and_nothing_written(elsa, arguments, line):
    code, out, err = elsa(*arguments, model=False)
    assert code == 2
    assert err.startswith(f"elsa: {line}")
    assert err.count("\n") == 1
    assert out == ""
    assert not Path("outputs/runs").exists()
