"""What the commands are given that make something of a saved model."""

import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined] # public, but not in its __all__

from elsa.config.commands import Paths, SavedModel
from elsa.decoding.generation import Sampling
from elsa.errors import UserError, in_one_line, require
from elsa.export.writing import DTYPES, Format


@dataclass(frozen=True, kw_only=True)
class ExportConfig(SavedModel):
    """A saved model in fewer bytes. `dtype`: that of `export`. `to`: null for a folder beside the model.

    `evaluate`: whether to score it as its run was scored; null for int8 alone.
    """

    dtype: str
    export: Format
    to: str | None
    evaluate: bool | None
    paths: Paths

    @property
    def folder(self) -> Path:
        """Where it goes."""
        if self.to is not None:
            return Path(self.to)
        if self.record_folder is not None:
            return self.record_folder / "exports" / self.export.name
        folder = self.model_folder.resolve()
        return folder.parent / f"{folder.name}-{self.export.name}"


@dataclass(frozen=True, kw_only=True)
class BenchConfig(SavedModel):
    """Timing a saved model's decoding. `batch`: sizes, one after the other. `prompt`, `tokens`: read, and then decoded.

    `dense`: dtypes of the dense model, the last of which the sparse one is in, too. `forms`: of sparse matrices; null
    for all that run here. `compile`: whether also with a decode step that torch.compile has made. `threads`: null for
    those that torch takes.
    """

    batch: list[int]
    prompt: int
    tokens: int
    rounds: int
    dense: list[str]
    forms: list[str] | None
    compile: bool
    threads: int | None
    device: str
    paths: Paths

    def __post_init__(self) -> None:
        require(bool(self.batch) and min(self.batch) >= 1, "batch", self.batch, "sizes from 1 up, for example [1,4]")
        for key in ("prompt", "tokens"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "at least 1")
        require(self.rounds >= 2, "rounds", self.rounds, "at least 2, so that there is an interval")
        require(self.threads is None or self.threads >= 1, "threads", self.threads, "at least 1, or null")
        unknown = [dtype for dtype in self.dense if dtype not in DTYPES]
        known = f"from {', '.join(DTYPES)}, at least one"
        require(bool(self.dense) and not unknown, "dense", self.dense, known)


@dataclass(frozen=True, kw_only=True)
class PushConfig(SavedModel):
    """A saved model for the hub. `repo`: organisation/name. `base_model`: null for the hub id that its record names.

    `license`: that of the base model. `private`: who sees it; a repository that is there and public is refused then.
    `revision`: a branch, null for the main one. `message`: of the commit. `dry_run`: write the folder that would be
    pushed, to `to` or else to `pushes` in `paths.outputs`, and send nothing.
    """

    repo: str
    base_model: str | None
    license: str | None
    private: bool
    revision: str | None
    message: str | None
    dry_run: bool
    to: str | None
    paths: Paths

    def __post_init__(self) -> None:
        check_repository("repo", self.repo)
        if self.base_model is not None:
            check_repository("base_model", self.base_model)
        wanted = "the licence of the base model is wanted, e.g. apache-2.0"
        require(self.license is not None, "license", "null", wanted)
        known_form = re.fullmatch(r"[a-z0-9][a-z0-9.-]*", self.license or "") is not None
        form = "an identifier of the hub is wanted: lower-case letters, digits, . and -, e.g. apache-2.0"
        require(known_form, "license", self.license, form)
        require(self.to is None or self.dry_run, "to", self.to, "it goes with dry_run=true")

    @property
    def folder(self) -> Path:
        """Where a dry run goes."""
        return Path(self.paths.outputs) / "pushes" / self.repo.replace("/", "--") if self.to is None else Path(self.to)


def check_repository(key: str, value: str) -> None:
    """Raise `UserError` unless it is organisation/name as the hub takes it."""
    try:
        validate_repo_id(value)
    except HFValidationError as error:
        raise UserError(f"{key}={value}: {in_one_line(error)}") from error
    require("/" in value, key, value, "organisation/name is wanted")


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(SavedModel):
    """What a saved model says. `prompt`: a text, or several. `compare`: whether to ask the dense model of its run, too.

    `tokens`, `temperature`, `top_p`, `seed`: as in `elsa.decoding.generation.Sampling`. `chat`: as a user's turn in the
    tokenizer's template. `dtype`: null for that of the run; for other folders that of exported weights, else float32.
    """

    prompt: str | list[str]
    tokens: int
    temperature: float
    top_p: float
    seed: int
    chat: bool
    compare: bool
    dtype: str | None
    device: str
    paths: Paths

    def __post_init__(self) -> None:
        require(bool(self.prompts), "prompt", self.prompt, "at least one text")
        _ = self.sampling  # refuses what is out of range

    @property
    def prompts(self) -> list[str]:
        return [self.prompt] if isinstance(self.prompt, str) else self.prompt

    @property
    def sampling(self) -> Sampling:
        return Sampling(tokens=self.tokens, temperature=self.temperature, top_p=self.top_p, seed=self.seed)
