"""The folder that is published: files that are known to belong to a model, without what is private in them."""

import json
import os
import re
import shutil
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from elsa.errors import UserError, require
from elsa.export.stored import Stored
from elsa.files import read_json, write_folder_atomically, write_json, write_text
from elsa.publish.card import OF_THE_HUB, Published, card, class_of

WRITTEN = ("README.md", "record.json", "export.json")  # made anew, whatever the model's folder has of these names
_COPIED = (
    "config.json", "generation_config.json", "tokenizer*.json", "special_tokens_map.json", "vocab.json", "merges.txt",
    "tokenizer.model", "chat_template.jinja", "*processor_config.json", "chat_template.json",
)  # fmt: skip
_DROPPED = ("paths", "tracker")  # of a config: they decide no number
_FOLDERS = ("mirror", "cache")  # whole paths of the machine, null wherever the hub is asked instead
_NO_PATHS = ("join", "join_train")  # separators of documents
_ENVIRONMENT = ("python", "libraries", "git_commit", "threads", "cpu", "cpu_instructions", "device", "gpu")
_PATH_KEYS = ("name_or_path", "_file")  # ends of keys in the files of transformers


def stage(source: Path, to: Path, about: Published, *, linked: bool = False) -> list[str]:
    """Write the folder `to`, whole or not at all; the names of what is left behind in `source`.

    `linked`: weights are the same files on the disk, for a folder that nobody will write to.
    """
    weights, others = _chosen(source)
    texts = {path.name: _public_text(path, about.base_model) for path in others if path.suffix == ".json"}
    readme = str(card(about))

    def write(folder: Path) -> None:
        for path in weights:
            _place(path, folder / path.name, linked)
        for path in others:
            text = texts.get(path.name)
            if text is None:
                shutil.copyfile(path, folder / path.name)
            else:
                write_text(folder / path.name, text)
        write_json(folder / "record.json", about.record)
        if about.export is not None:
            write_json(folder / "export.json", about.export)
        write_text(folder / "README.md", readme)

    write_folder_atomically(to, write)
    taken = {path.name for path in (*weights, *others)} | set(WRITTEN[1:])
    return sorted(f"{path.name}/" if path.is_dir() else path.name for path in source.iterdir()
                  if path.name not in taken)  # fmt: skip


def public(value: Any, base_model: str) -> Any:
    """A part of a record without what is private: of a path its last name, of a machine what moves the last bits.

    Names in a repository of the hub stay as they are, and so does the `base_model`, which the card names anyway.
    """
    if isinstance(value, list):
        return [public(each, base_model) for each in value]
    if isinstance(value, str):
        return value if value == base_model else _last_name(value)
    if not isinstance(value, dict) or not OF_THE_HUB.keys().isdisjoint((class_of(value), value.get("type"))):
        return value
    found: dict[str, Any] = {}
    for key, each in value.items():
        if key == "environment" and isinstance(each, dict):
            found[key] = {name: each[name] for name in _ENVIRONMENT if name in each}
        elif key in _FOLDERS:
            found[key] = None
        elif key not in _DROPPED:
            found[key] = each if key in _NO_PATHS else public(each, base_model)
    return found


def check_export(facts: dict[str, Any], where: str) -> None:
    """Raise `UserError` that names `where` and the key unless these are the facts of an export that a card reads."""
    try:
        _Export.model_validate(facts)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        key = ".".join(map(str, first["loc"]))
        raise UserError(f"{where}: no facts of an export: {key}: {first['msg'].lower()}") from error


class _Group(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore")


Count = Annotated[int, Field(ge=0)]
Ratio = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class _Bytes(_Group):
    total: Count
    dense: Count
    source: Count


class _Ratio(_Group):
    of_dense: Ratio
    of_source: Ratio
    matrices_of_dense: Ratio


class _Zeros(_Group):
    numel: Count
    before: Count
    after: Count


class _Export(_Group):
    name: str
    dtype: str
    bytes: _Bytes
    ratio: _Ratio
    zeros: _Zeros
    files: dict[str, str]


def _chosen(source: Path) -> tuple[list[Path], list[Path]]:
    """The files of weights with their index, and the others that belong to a model. Raises `UserError` for no model."""
    weights = Stored(source).files
    index = [] if len(weights) == 1 else sorted(source.glob("*.safetensors.index.json"))
    others = {path for pattern in _COPIED for path in source.glob(pattern) if path.is_file()}
    return [*weights, *index], sorted(others)


def _place(path: Path, to: Path, linked: bool) -> None:
    try:
        if linked:
            os.link(path.resolve(), to)
            return
    except OSError:  # another file system, or one without links
        pass
    shutil.copyfile(path, to)


def _public_text(path: Path, base_model: str) -> str | None:
    """The JSON of a file without the folders that it names; None if it names none and can be copied as it is.

    Raises `UserError` for a config with `sparsity_config`, which vLLM refuses to load.
    """
    content = read_json(path) or {}
    if path.name == "config.json":
        _refuse_sparsity_config(content, path)
    shown = _without_folders(content, base_model)
    return None if shown == content else json.dumps(shown, indent=2, ensure_ascii=False) + "\n"


def _without_folders(value: Any, base_model: str, key: str = "") -> Any:
    if isinstance(value, dict):
        return {name: _without_folders(each, base_model, name) for name, each in value.items()}
    if isinstance(value, list):
        return [_without_folders(each, base_model) for each in value]
    is_path = isinstance(value, str) and key.endswith(_PATH_KEYS) and value != base_model
    return _last_name(value) if is_path else value


def _refuse_sparsity_config(value: Any, path: Path) -> None:
    if isinstance(value, dict):
        found = "sparsity_config" in value
        require(not found, f"{path}: sparsity_config", "given", "vLLM refuses a model with this key; take it out")
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _refuse_sparsity_config(each, path)


def _last_name(text: str) -> str:
    return re.split(r"[/\\]", text.rstrip("/\\"))[-1]
