"""Models by embedded name, packaged GGUF file, local folder or hub id: safetensors only, no remote code.

A source knows three things: `identity` (what decides the weights, as JSON), `check` (is it there, before any work) and
`load`. All go through the same loader; only the place differs.
"""

import importlib.util
import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, cast

import torch
from huggingface_hub import snapshot_download
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)
from transformers.utils.hub import cached_file

from elsa import hub
from elsa.errors import UserError, did_you_mean, require, require_name, under
from elsa.export.kind import auto_of, class_of
from elsa.export.stored import Stored, sparse_modules
from elsa.files import known_hash, package_folder, write_folder_atomically
from elsa.model.fitting import (
    WRAPPERS,
    check_kind,
    empty_skeleton,
    explained,
    refuse_not_finite,
    refuse_what_does_not_fit,
    skeleton_of,
)
from elsa.model.weights import choose
from elsa.track.progress import progress, working

_NEEDED = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]  # config, weights, tokenizer, chat template
_OF_PROCESSORS = ("preprocessor_config", "processor_config", "video_preprocessor_config", "chat_template")
_log = logging.getLogger(__name__)
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True, kw_only=True)
class ModelSource(ABC):
    """`dtype`: of the weights in memory. `begin_with_bos`: every token window starts with BOS, as Gemma needs it.

    `include`, `exclude`: globs over the names of weights (`elsa.model.weights.choose`), which say what is prunable.
    """

    name: str
    dtype: str = "float32"
    begin_with_bos: bool = False
    include: list[str] | None = None
    exclude: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        require_name("name", self.name)
        require(self.dtype in _DTYPES, "dtype", self.dtype, f"known: {', '.join(_DTYPES)}")

    @abstractmethod
    def check(self) -> None:
        """Raise `UserError` where the model can be seen to be missing."""

    @abstractmethod
    def identity(self, cache: Path) -> dict[str, Any]:
        """What decides weights, structure and tokens, as JSON: part of the run's hash.

        `cache`: where hashes of large files are remembered.
        """

    @abstractmethod
    def location(self, cache: Path) -> dict[str, Any]:
        """Arguments that tell `from_pretrained` where the model is."""

    def fetch(self, cache: Path) -> None:
        """Get the model's files to where `load` will look for them; what is local needs nothing."""
        self.location(cache)

    def structure(self, cache: Path) -> PretrainedConfig:
        """The model's config: its layers and their sizes."""
        where = self.location(cache)
        with explained(self.name, _folder(where)):
            config: PretrainedConfig = AutoConfig.from_pretrained(**where, trust_remote_code=False)
        check_kind(self.name, config)
        if getattr(config, "quantization_config", None) is not None:  # our own, whose weights are read with their zeros
            del config.quantization_config
        return config

    def sizes(self, cache: Path) -> PretrainedConfig:
        """As `structure`, but it may be known where the model itself is out of reach."""
        return self.structure(cache)

    def skeleton(self, cache: Path) -> PreTrainedModel:
        """The model without memory for its weights (meta device), to look at its structure.

        Where its files are in a folder, they are held against it: `UserError` if they do not fit.
        """
        config, folder = self.structure(cache), _folder(self.location(cache))
        model = empty_skeleton(self.name, config) if folder is None else skeleton_of(self.name, config, folder)
        self.choose(model)
        return model

    def choose(self, model: nn.Module) -> None:
        """Have only the weights that `include` and `exclude` leave be prunable. `UserError` for globs without use."""
        with under("model"):
            choose(model, self.include, self.exclude)

    def tokenizer(self, cache: Path) -> PreTrainedTokenizerFast:
        """The model's tokenizer. Raises `UserError` if it has none that can be read."""
        where = self.location(cache)
        with explained(self.name, _folder(where)):
            tokenizer = AutoTokenizer.from_pretrained(**where, use_fast=True, trust_remote_code=False)
        if not isinstance(tokenizer, PreTrainedTokenizerFast):
            kind = type(tokenizer).__name__
            raise UserError(f"model={self.name}: its tokenizer ({kind}) has no tokenizer.json; elsa needs a fast one")
        return tokenizer

    def companions(self, cache: Path) -> list[Path]:
        """The files that say how a wrapper makes inputs of pictures and sound; most models have none."""
        where = self.location(cache)
        name = where.pop("pretrained_model_name_or_path")
        quiet = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
        with explained(self.name, None):
            found = [cached_file(name, f"{each}.json", **where, **quiet) for each in _OF_PROCESSORS]
        return [Path(each) for each in found if each is not None]

    def load(self, cache: Path, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
        """The model in evaluation mode on `device`, and its tokenizer.

        Every weight comes from the files and every tensor of the files goes into the model: `UserError` otherwise, and
        where a weight is NaN or infinite. Prefixes that wrappers put before the names are taken off.
        """
        config, where = self.structure(cache), self.location(cache)
        with working(f"load {self.name}"), explained(self.name, _folder(where)):
            loader, sparse = auto_of(config), _sparse_folder(where)
            if sparse is not None:
                loader, where = class_of(config), _with_zeros(sparse, config)
            loaded: Any = loader.from_pretrained(
                **where, dtype=_DTYPES[self.dtype], use_safetensors=True, trust_remote_code=False,
                key_mapping=WRAPPERS, output_loading_info=True, ignore_mismatched_sizes=True,
            )  # fmt: skip
        model, found = cast(tuple[PreTrainedModel, dict[str, Any]], loaded)
        if sparse is not None and (sparse / "generation_config.json").is_file():
            model.generation_config = GenerationConfig.from_pretrained(sparse)
        refuse_what_does_not_fit(self.name, model, found)
        refuse_not_finite(self.name, model)
        self.choose(model)
        moved = model.to(device)  # type: ignore[arg-type]  # wrapped without its own `self`
        return moved.eval(), self.tokenizer(cache)


@dataclass(frozen=True, kw_only=True)
class Pretrained(ModelSource):
    """A local folder or a hub id; `revision` pins a hub id to a commit.

    `architecture`: the sizes in the model's config, with which `elsa plan` works where the hub cannot be reached.
    """

    path: str
    revision: str | None = None
    architecture: dict[str, Any] | None = None

    def check(self) -> None:
        if Path(self.path).is_dir():
            _ = Stored(Path(self.path)).files
            return
        looks_local = self.path.startswith((".", "/", "~")) or self.path.count("/") != 1
        require(not looks_local, "path", self.path, "no such folder; a hub id has the form organisation/name")

    def sizes(self, cache: Path) -> PretrainedConfig:
        try:
            return super().sizes(cache)
        except UserError:
            if self.architecture is None:
                raise
            return AutoConfig.for_model(**self.architecture)

    def identity(self, cache: Path) -> dict[str, Any]:
        if Path(self.path).is_dir():
            return _content(Path(self.path), cache)
        return {"hub": self.path, "revision": hub.commit(self.path, self.revision, "config.json")}

    def location(self, cache: Path) -> dict[str, Any]:
        where = {"pretrained_model_name_or_path": self.path}
        if Path(self.path).is_dir():
            return where
        return where | {"revision": self.revision} | hub.place()

    def fetch(self, cache: Path) -> None:
        if not Path(self.path).is_dir():
            snapshot_download(self.path, revision=self.revision, allow_patterns=_NEEDED, **hub.place())


@dataclass(frozen=True, kw_only=True)
class Embedded(ModelSource):
    """A model that ships with the package, trained by `scripts/train_tiny_model.py`."""

    folder: str

    @property
    def _path(self) -> Path:
        return Path(__file__).parent / self.folder

    def check(self) -> None:
        known = [p.parent.name for p in Path(__file__).parent.glob("*/model.safetensors")]
        require(self.folder in known, "folder", self.folder, did_you_mean(self.folder, known))

    def identity(self, cache: Path) -> dict[str, Any]:
        return _content(self._path, cache)

    def location(self, cache: Path) -> dict[str, Any]:
        return {"pretrained_model_name_or_path": str(self._path)}


@dataclass(frozen=True, kw_only=True)
class PackagedGguf(ModelSource):
    """A GGUF file inside an installed Python package, converted once to plain safetensors in the cache."""

    package: str
    version: str
    file: str

    def check(self) -> None:
        require_name("version", self.version)
        missing = [name for name in (self.package, "gguf") if importlib.util.find_spec(name) is None]
        if missing:
            distribution = self.package.replace("_", "-")
            raise UserError(
                f"package={self.package}: {' and '.join(missing)} not installed; run: "
                f"pip install gguf && pip install --no-deps {distribution}=={self.version}"
            )

    def identity(self, cache: Path) -> dict[str, Any]:
        return {"package": self.package, "version": self.version, "file": self.file}

    def location(self, cache: Path) -> dict[str, Any]:
        folder = cache / "models" / f"{self.package}-{self.version}"
        if not folder.is_dir():
            self._convert(folder)
        return {"pretrained_model_name_or_path": str(folder)}

    def _convert(self, folder: Path) -> None:
        """Write fp32 safetensors; rebuilt without the quantisation mark, which forbids any change of dtype."""
        _log.info("%s: converting %s to safetensors, once, in about half a minute", self.name, self.file)
        where = {"pretrained_model_name_or_path": str(package_folder(self.package)), "gguf_file": self.file}
        with working(f"convert {self.file}"):
            quantised = AutoModelForCausalLM.from_pretrained(**where, dtype=torch.float32)
            config = AutoConfig.for_model(**_without_quantisation(quantised.config.to_dict()))
            model = type(quantised)(config)
            model.load_state_dict(quantised.state_dict())
            tokenizer = AutoTokenizer.from_pretrained(**where)
            write_folder_atomically(folder, model.save_pretrained, tokenizer.save_pretrained)


def _sparse_folder(where: dict[str, Any]) -> Path | None:
    """The folder of a model in this package's sparse format, which comes whole from the hub; None for any other."""
    folder = _folder(where)
    if folder is not None:
        return folder if Stored(folder).sparse else None
    config = AutoConfig.from_pretrained(**where, trust_remote_code=False)
    if sparse_modules(getattr(config, "quantization_config", None)) is None:
        return None
    place = {key: value for key, value in where.items() if key != "pretrained_model_name_or_path"}
    return Path(snapshot_download(where["pretrained_model_name_or_path"], allow_patterns=_NEEDED, **place))


def _with_zeros(folder: Path, config: PretrainedConfig) -> dict[str, Any]:
    """Arguments that give `from_pretrained` the weights of a sparse folder as those of any other."""
    weights = dict(Stored(folder).tensors())
    return {"pretrained_model_name_or_path": None, "config": config, "state_dict": weights}


def _content(folder: Path, cache: Path) -> dict[str, Any]:
    """Hashes of the weights and of all that says how they are used: config, tokenizer, index."""
    files = sorted({path for pattern in _NEEDED for path in folder.glob(pattern)})
    return {"files": {path.name: known_hash(path, cache) for path in progress(files, "hash", unit="file")}}


def _folder(where: dict[str, Any]) -> Path | None:
    """Where the model's files are; None if the hub has them."""
    path = Path(where["pretrained_model_name_or_path"])
    return path if path.is_dir() else None


def _without_quantisation(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != "quantization_config"}


class Limits(TypedDict):
    """`vocabulary`: how many token ids a model knows. `positions`: the longest window that it was built for."""

    vocabulary: int | None
    positions: int | None


def limits(model: nn.Module) -> Limits:
    """Of a model; None where neither it nor its config says."""
    if not isinstance(model, PreTrainedModel):
        return {"vocabulary": None, "positions": None}
    embedding = cast(nn.Embedding, model.get_input_embeddings())
    config = model.config.get_text_config(decoder=True)
    return {"vocabulary": embedding.weight.shape[0], "positions": getattr(config, "max_position_embeddings", None)}
