"""What every reader of a record relies on, checked once where it is read. What else a record holds is let through."""

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from elsa.errors import UserError
from elsa.sparsity.pattern import Pattern

_LONGEST = 200  # characters of a name
_MOST = 2**63  # of anything that is counted


def _name(text: str) -> str:
    if not text.isprintable() or len(text) > _LONGEST:
        raise ValueError(f"no name of at most {_LONGEST} printable characters")
    return text


def _perplexity(number: float | str) -> float | str:
    """A word is what `write_json` made of a number that JSON has not. A perplexity is exp of something."""
    if isinstance(number, str) and number not in ("inf", "nan"):
        raise ValueError("no number")
    if float(number) <= 0:
        raise ValueError("a perplexity is positive")
    return number


Name = Annotated[str, AfterValidator(_name)]
Count = Annotated[int, Field(ge=0, le=_MOST)]
Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Seconds = Annotated[float, Field(ge=0, le=_MOST)]
Label = Annotated[str, Field(pattern=r"^(dense|[\d.e+-]+%( global| owl| levels)?|((paired|transposable)_)?\d+:\d+)$")]


class _Group(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


class _Zeros(_Group):
    zeros: Count
    numel: Annotated[int, Field(ge=1, le=_MOST)]


class _Sparsity(_Zeros):
    counted: Share
    tensors: dict[str, _Zeros]


class _Seconds(_Group):
    prune: Seconds


class _Facts(_Group):
    calibration_tokens: Count = 0
    training_tokens: Count = 0


class _Environment(_Group):
    libraries: dict[str, str | None]
    threads: Annotated[int, Field(ge=1, le=_MOST)] | None = None


class _Asked(_Group):
    pattern: str
    ratio: float | None
    allocation: str | None = "uniform"
    levels: dict[str, float] | None = None

    @model_validator(mode="after")
    def _is_known(self) -> "_Asked":
        Pattern(**self.model_dump())
        return self


class _Source(_Group):
    dtype: str | None = None
    begin_with_bos: bool = False


class _Config(_Group):
    model: _Source
    sparsity: _Asked | None = None


class Pruned(_Group):
    """What `pruned.json` says, and `result.json` beside its scores, in every format that is read."""

    name: Name
    model: Name
    method: Name
    pattern: Label
    seed: int | None
    settings: dict[str, Any]
    config: _Config
    sparsity: _Sparsity
    seconds: _Seconds
    facts: _Facts
    environment: _Environment
    peak_memory_bytes: Count
    dtype: str | None = None
    data_sha256: dict[str, str] = {}
    weights_sha256: dict[str, str] = {}


class _Set(_Group):
    perplexity: Annotated[float | str, AfterValidator(_perplexity)]
    windows: Count
    length: Count
    split: str
    formula: str
    autocast: str
    data_sha256: str


class _Task(_Group):
    """Some tasks have other metrics than accuracy, which are let through."""

    acc: Share = 0.0
    acc_stderr: Finite = 0.0
    acc_norm: Share = 0.0
    acc_norm_stderr: Finite = 0.0
    n: Annotated[int, Field(ge=1, le=_MOST)]
    version: Any
    num_fewshot: Count
    data_sha256: str

    @model_validator(mode="after")
    def _has_its_error(self) -> "_Task":
        if "acc" in self.model_fields_set and "acc_stderr" not in self.model_fields_set:
            raise ValueError("acc without acc_stderr")
        return self


class _ZeroShot(_Group):
    tasks: Annotated[dict[Name, _Task], Field(min_length=1)]
    items: dict[str, list[Share]]
    average_acc: Share | None
    limit: int | None
    dtype: str
    lm_eval: str


class _Difference(_Group):
    difference: Finite
    low: Finite
    high: Finite


class _Pair(_Difference):
    lost: Count
    gained: Count


class _Metric(_Group):
    value: Finite
    stderr: Finite = 0.0


class _Written(_Task):
    """A task of generation."""

    accuracy: Name = ""
    tokens: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    repetition: Share
    cut: Share
    max_new_tokens: Count
    metrics: dict[Name, _Metric]


class _Generation(_Group):
    tasks: Annotated[dict[Name, _Written], Field(min_length=1)]
    items: dict[str, dict[str, list[Finite]]]
    average_acc: Share | None
    limit: int | None
    dtype: str
    lm_eval: str
    settings: dict[str, Any]


class _Evaluation(_Group):
    key: str | None
    config: Any
    perplexity: dict[Name, _Set] = {}
    zero_shot: _ZeroShot = None  # type: ignore[assignment] # absent, never null
    zero_shot_against_dense: dict[Name, _Pair] = {}
    generation: _Generation = None  # type: ignore[assignment]
    generation_against_dense: dict[Name, dict[str, _Difference]] = {}


class Scored(_Group):
    """The evaluations of a run."""

    evaluations: Annotated[list[_Evaluation], Field(min_length=1)]


def check_pruned(record: dict[str, Any], where: str) -> None:
    """Raise `UserError` that names `where` and the key if the record of a pruning is not as readers need it."""
    _check(Pruned, record, where)


def check_scored(record: dict[str, Any], where: str) -> None:
    """The same of its evaluations."""
    _check(Scored, record, where)


def _check(shape: type[_Group], record: dict[str, Any], where: str) -> None:
    try:
        shape.model_validate(record)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        said = " ".join(f"{key}: {first['msg'].removeprefix('Value error, ').lower()}".split())
        raise UserError(f"{where}: no record: {said[:_LONGEST]}") from error
