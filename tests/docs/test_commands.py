"""Every command of the README and the pages is one that works: settings compose and build, scripts are there."""

import ast
import contextlib
import functools
import io
import itertools
import logging
import re
import sys
import tomllib

import hydra
import pytest
import yaml
from omegaconf import OmegaConf
from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

from elsa.config.build import build
from elsa.config.choices import CONF
from elsa.config.commands import DashboardConfig, ReportConfig, ReproduceConfig, StatusConfig
from elsa.config.compose import plain
from elsa.config.deploy import BenchConfig, ExportConfig, GenerateConfig, PushConfig
from elsa.config.prune import EvaluateConfig, PruneConfig
from elsa.run.cli import COMMANDS, main
from tests.docs.pages import PAGES, ROOT, blocks, commands, name

CONFIGS = dict.fromkeys(("prune", "plan", "doctor", "fetch"), PruneConfig) | {
    "evaluate": EvaluateConfig, "report": ReportConfig, "export": ExportConfig, "push": PushConfig,
    "bench": BenchConfig, "generate": GenerateConfig, "reproduce": ReproduceConfig, "status": StatusConfig,
    "dashboard": DashboardConfig,
}  # fmt: skip
ELSEWHERE = {"docs/guides/add_a_method.md"}  # with a package that tests/run/test_added_methods.py installs
OTHERS = {"pip", "wandb", "tensorboard", "source", "zensical"}  # programs that are not ours
STARTERS = {"torchrun", "srun"}  # of `-m elsa`
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
_COMMA = re.compile(r",(?![^\[{(]*[\]})])")  # that separates the values of a sweep


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    """A folder with the files that settings are read from."""
    monkeypatch.setattr(logging.getLogger("elsa"), "handlers", [])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "levels.txt").write_text("*.mlp.*: 0.7\n")


@functools.cache
def check(*words):
    """Fail unless this command would work. Commands of elsa are composed and built, but not run."""
    program, *arguments = words
    program = program.removeprefix(".venv/bin/")
    if program in STARTERS:
        assert arguments[arguments.index("-m") + 1] == "elsa"
        program, arguments = "elsa", arguments[arguments.index("-m") + 2 :]
    if program == "elsa":
        check_elsa(arguments)
    elif program in ("bash", "python"):
        check_script(*arguments)
    elif program == "pip":
        extras = {extra for found in re.findall(r"\[([\w,]+)\]", " ".join(words)) for extra in found.split(",")}
        assert extras <= _PROJECT["optional-dependencies"].keys()
    else:
        assert program in OTHERS, f"{program}: neither ours nor known"


def check_script(path, *arguments):
    """Its file is there, and knows the flags."""
    source = (ROOT / path).read_text()
    for flag in (each.partition("=")[0] for each in arguments if each.startswith("--")):
        assert f'"{flag}"' in source, flag


def check_elsa(arguments):
    if "--help" in arguments or "--version" in arguments:
        return
    command = arguments[0] if arguments and arguments[0] in COMMANDS else "prune"
    settings = [each for each in arguments[1 if command in arguments[:1] else 0 :] if each != "-m"]
    several = "-m" in arguments or any(each.startswith("sweep=") for each in settings)
    for run in runs(settings) if several else [settings]:
        shown = resolved([command, *run])
        with hydra.initialize_config_dir(str(CONF), version_base="1.3"):
            config = plain(OmegaConf.create(shown))
        if command in CONFIGS:
            build(CONFIGS[command], config)


def runs(settings):
    """Of a sweep, as few runs as show every value of every setting."""
    keys = [each.partition("=")[::2] for each in settings]
    values = [_COMMA.split(value) for _, value in keys]
    for row in itertools.zip_longest(*values):
        yield [f"{key}={some[0] if value is None else value}"
               for (key, _), value, some in zip(keys, row, values, strict=True)]  # fmt: skip


def resolved(arguments):
    """What `elsa <arguments> --cfg job` prints, by the way that a user's own words go."""
    out, err, before = io.StringIO(), io.StringIO(), sys.argv
    sys.argv = ["elsa", *arguments, "--cfg", "job"]
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit:
        pytest.fail(f"elsa {' '.join(arguments)}: {err.getvalue()}")
    finally:
        sys.argv = before
    return out.getvalue()


@pytest.mark.parametrize(
    "page", [page for page in PAGES if name(page) not in ELSEWHERE and any(commands(page))], ids=name
)
def test_commands_work(page):
    for words in commands(page):
        check(*words)


WRONG = """\
elsa mothod=wanda
elsa method=wonda
elsa evalute checkpoint=x
elsa sparsity.ratio=1.5
elsa -m seed=0 method=wanda,wonda
elsa evaluate checkpoint=x eval.window=3
elsa push checkpoint=x repo=me/it
torchrun -m elsa method=wonda
bash scripts/quickstort.sh
python scripts/same_bits.py --davices 2
pip install -e .[kernel]
elsi"""


@pytest.mark.parametrize("command", WRONG.splitlines())
def test_commands_that_would_not_work_are_found(command):
    with pytest.raises((AssertionError, pytest.fail.Exception, ValueError, OSError)):
        check(*command.split())


def test_the_trial_of_a_sweep_agent_is_a_run():
    """Of the W&B sweep in the guide: every parameter at each end, in the words that wandb's own agent makes of them."""
    text = next(block.text for block in blocks(ROOT / "docs/guides/wandb.md") if block.language == "yaml")
    sweep = yaml.safe_load(text)
    program, arguments = create_sweep_command(sweep["command"])
    for end in ("min", "max"):
        values = {key: {"value": given.get("value", given.get(end))} for key, given in sweep["parameters"].items()}
        words = create_sweep_command_args({"args": values})
        check(program, *words[arguments.strip("${}")])


@pytest.mark.parametrize("page", PAGES, ids=name)
def test_python_compiles_and_its_names_are_there(page):
    for block in blocks(page):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                check_names(node)


def check_names(node):
    """Of an import from elsa, and of `elsa.a.b`."""
    if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "elsa":
        for each in node.names:
            exec(f"from {node.module} import {each.name}", {})
    if isinstance(node, ast.Attribute) and re.fullmatch(r"elsa(\.\w+)+", written := ast.unparse(node)):
        scope = {}
        exec("import elsa, elsa.export", scope)
        eval(written, scope)
