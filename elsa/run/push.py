"""`elsa push checkpoint=<folder> repo=<organisation/name>`: a pruned model to the hub, with a card of its record."""

import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi, get_token
from omegaconf import DictConfig

from elsa import hub
from elsa.config.build import build
from elsa.config.checks import check_folders
from elsa.config.compose import plain
from elsa.config.deploy import PushConfig, check_repository
from elsa.errors import UserError, in_one_line, require
from elsa.export.kind import auto_of
from elsa.export.stored import Stored
from elsa.files import explained, file_name, known_hash, read_json, remove_leftovers
from elsa.model.loading import Pretrained
from elsa.publish.card import Published
from elsa.publish.folder import check_export, public, stage
from elsa.record.record import Record, read_record
from elsa.run.saved import record_of
from elsa.track.progress import working

_MB = 1e6
_LONG = 200  # characters of what the hub says
_DAY = 86400.0  # seconds
_WEIGHTS = [
    f"{stem}{rest}"
    for stem in ("model", "elsa")
    for rest in (".safetensors", "-*-of-*.safetensors", ".safetensors.index.json")
]


def push(composed: DictConfig) -> None:
    """Make the folder and send it, or say where it lies."""
    run = build(PushConfig, plain(composed))
    check_folders(run.paths)
    run.check_folder()
    if run.dry_run:
        _check_place(run)
    else:
        _check_hub()
    about = published(run)
    if run.dry_run:
        left = stage(run.model_folder, run.folder, about)
        _print(str(run.folder), run.folder, left, about)
        print("  nothing was sent (dry_run=true)")
        return
    above = Path(run.paths.outputs) / "pushes"
    with explained(above, "written"):
        above.mkdir(parents=True, exist_ok=True)
        remove_leftovers(above, _DAY)
    with tempfile.TemporaryDirectory(dir=above, prefix=".push.part-") as folder:
        staged = Path(folder) / "staged"
        left = stage(run.model_folder, staged, about, linked=True)
        url, private = _sent(run, staged, about.record["name"])
        _print(f"{url} ({'private' if private else 'public'})", staged, left, about)


def published(run: PushConfig) -> Published:
    """What the card is made of. Raises `UserError` where the record is not of these weights."""
    record, export = _record(run), _export(run)
    if record["method"] == "checkpoint":
        raise UserError(f"checkpoint={run.checkpoint}: its record is of no run, but of a folder that was scored")
    _check_weights(run, record, export)
    base_model = run.base_model or _base_model(record)
    if export is not None:
        export |= {"evaluations": _own_evaluations(run, export)}
    assert run.license is not None, "it was asked for"
    source = Pretrained(name=file_name(run.model_folder.resolve().name), path=str(run.model_folder))
    return Published(
        repo=run.repo, base_model=base_model, license=run.license, record=public(record, base_model),
        export=public(export, base_model), sparse=Stored(run.model_folder).sparse,
        loader=auto_of(source.structure(Path(run.paths.cache))).__name__,
    )  # fmt: skip


def _record(run: PushConfig) -> Record:
    """That of the model's run. Raises `UserError` if there is none."""
    record = record_of(run)
    if record is None:
        raise UserError(
            f"checkpoint={run.checkpoint}: it has no record of a run to make the card from; give the folder of a "
            "finished run, or what elsa export made of one"
        )
    return record


def _export(run: PushConfig) -> dict[str, Any] | None:
    path = run.model_folder / "export.json"
    facts = read_json(path)
    if facts is not None:
        check_export(facts, str(path))
    return facts


def _check_weights(run: PushConfig, record: Record, export: dict[str, Any] | None) -> None:
    """Raise `UserError` unless these are the weights that the numbers are of."""
    name, hashes = ("record", record.get("weights_sha256")) if export is None else ("export.json", export["files"])
    if not hashes:
        print("  its record is of a time before weights were hashed: whether it is of these was not checked")
        return
    for path in Stored(run.model_folder).files:
        with working(f"hash {path.name}"):
            same = hashes.get(path.name) == known_hash(path, Path(run.paths.cache))
        require(same, "checkpoint", run.checkpoint, f"{path.name} is not the file that its {name} is of")


def _base_model(record: Record) -> str:
    """The hub id that the record names. Raises `UserError` if it names none."""
    path = record["config"]["model"].get("path")
    try:
        check_repository("base_model", path or "")
        is_folder = Path(path).is_dir()
    except UserError:
        is_folder = True
    wanted = f"its record names no hub id ({path or record['model']}); give that of the base model"
    require(not is_folder, "base_model", "null", wanted)
    return str(path)


def _own_evaluations(run: PushConfig, export: dict[str, Any]) -> list[dict[str, Any]]:
    """What `elsa evaluate` found of the very files of an export."""
    found: list[dict[str, Any]] = []
    for path in sorted((Path(run.paths.outputs) / "evaluations").glob("*/result.json")):
        with suppress(UserError):  # of another model, as far as can be known
            record = read_record(path.parent)
            if record is not None and record.get("weights_sha256") == export["files"]:
                found += record["evaluations"]
    return found


def _check_place(run: PushConfig) -> None:
    """Raise `UserError` if a dry run would replace anything but a folder of a dry run."""
    folder, model = run.folder.resolve(), run.model_folder.resolve()
    ours = not folder.exists() or ((folder / "README.md").is_file() and (folder / "record.json").is_file())
    free = ours and not model.is_relative_to(folder)
    require(free, "to", run.folder, "it holds something else; give a new folder")


def _check_hub() -> None:
    """Raise `UserError` where nothing can be sent."""
    instead = "dry_run=true writes the folder without it"
    if not hub.reachable():
        raise UserError(f"push: the hub cannot be reached from here; {instead}")
    if get_token() is None:
        raise UserError(f"push: there is no token of the hub; set HF_TOKEN, or run: hf auth login; {instead}")


def _sent(run: PushConfig, staged: Path, name: str) -> tuple[str, bool]:
    """Send the folder in one commit: its address, and whether it is private.

    Weights of the repository that the model no longer has go in the same commit. Raises `UserError` for what the hub
    refuses.
    """
    try:
        api = HfApi(library_name="elsa")
        api.create_repo(run.repo, private=run.private, exist_ok=True)
        private = api.model_info(run.repo).private is not False
        meant = "the repository is there and public; private=false says that this is meant"
        require(private or not run.private, "private", "true", meant)
        if run.revision is not None:
            api.create_branch(run.repo, branch=run.revision, exist_ok=True)
        with working(f"send to {run.repo}"):
            commit = api.upload_folder(
                repo_id=run.repo, folder_path=staged, revision=run.revision, delete_patterns=_WEIGHTS,
                allow_patterns=sorted(path.name for path in staged.iterdir()),
                commit_message=run.message or f"elsa push: {name}",
            )  # fmt: skip
    except UserError:
        raise
    except Exception as error:  # the hub's client lets through errors of many libraries
        why = f"{type(error).__name__}: {in_one_line(error, _LONG)}"
        raise UserError(f"repo={run.repo}: it was not pushed: {why}") from error
    return str(commit.commit_url), private


def _print(where: str, staged: Path, left: list[str], about: Published) -> None:
    files = sorted(staged.iterdir())
    size = sum(path.stat().st_size for path in files)
    print(f"{where}: {len(files)} files, {size / _MB:,.1f} MB")
    print(f"  {', '.join(path.name for path in files)}")
    if left:
        print(f"  left behind: {', '.join(left)}")
    source = "as its record names it" if about.base_is_recorded else "as given"
    print(f"  base model {about.base_model}, {source}; licence {about.license}")
