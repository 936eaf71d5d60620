"""``push``: a trained classifier on the Hugging Face Hub, with its card and its exports.

    README.md                the model card, with licence
    config.json …            the export hf: ``pipeline("text-classification", "user/name")``
    onnx/ onnx-int8/         these exports, where they were made of the classifier as it is now
    adapter/                 the adapter that it was merged from

All files go up in one commit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textlora import storage
from textlora.bundles import exports_of, find_bundle
from textlora.errors import ResourceError, UsageError
from textlora.exports import Exports
from textlora.reporting import page

LICENCE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
CARD = "README.md"
LOGIN = "Set HF_TOKEN to a token that may write, or run `hf auth login`."


@dataclass(frozen=True, slots=True)
class Pushed:
    """What was uploaded, or would be.

    Attributes:
        repo: ``user/name``.
        licence: as the card states it.
        private: whether a new repository is visible to its owner alone.
        files: names in the repository with their bytes.
        url: of the commit; empty in a dry run.
    """

    repo: str
    licence: str
    private: bool
    files: tuple[tuple[str, int], ...]
    url: str = ""

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(size for _, size in self.files)


def push(
    run: str | Path,
    repo: str,
    *,
    licence: str | None = None,
    public: bool = False,
    dry_run: bool = False,
    progress: Any = None,
) -> Pushed:
    """Upload a classifier to the hub; its export hf is made first where there is none.

    The token comes from ``HF_TOKEN`` or from the hub's own login, and is written nowhere.

    Args:
        run: a finished run folder, with its report.
        repo: ``user/name``; made where it does not exist, and then private.
        licence: identifier of the hub, as ``apache-2.0``; may be left out where the card states one.
        public: make a new repository visible to everybody.
        dry_run: upload nothing, and say what would be.
        progress: called with stage, texts done, their number and a note, while an export is made.

    Raises:
        UsageError: no classifier, no card, no licence, or no name of a repository; all together.
        ResourceError: no token, or the hub refuses or cannot be reached.
        TrainingError: the export does not answer as the classifier does.
    """
    folder = Path(run)
    find_bundle(folder)
    card, stated = _checked(folder, repo, licence)
    _make_merged(folder, progress)
    readme = _readme(card, repo=repo, licence=stated, exports=exports_of(folder))
    files: dict[str, bytes | Path] = {CARD: readme.encode("utf-8"), **dict(_files(folder))}
    sizes = tuple((name, len(file) if isinstance(file, bytes) else file.stat().st_size) for name, file in files.items())
    pushed = Pushed(repo, stated, not public, sizes)
    return pushed if dry_run else _uploaded(pushed, files)


def _checked(folder: Path, repo: str, licence: str | None) -> tuple[Any, str]:
    """Return the card, and the licence."""
    problems: list[str] = []
    if not _is_name(repo):
        problems.append(f"{repo!r} is no name of a repository: expected user/name.")
    path = folder / storage.MODEL_CARD
    card = None
    if path.exists():
        card = _card(path)
    else:
        problems.append(f"there is no model card ({path}): run `textlora report {folder}` first.")
    stated = licence or (card.data.license if card else None) or ""
    if card and not stated:
        problems.append("there is no licence, and nobody could use the model: give one, as --licence apache-2.0.")
    elif stated and not LICENCE.fullmatch(stated):
        problems.append(f"{stated!r} is no licence as the hub writes it: expected for instance apache-2.0 or mit.")
    if problems:
        raise UsageError("Cannot push:", problems=problems)
    return card, stated


def _is_name(repo: str) -> bool:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError:
        return False
    return repo.count("/") == 1


def _card(path: Path) -> Any:
    from huggingface_hub import ModelCard

    return ModelCard(path.read_text(encoding="utf-8"), ignore_metadata_errors=False)


def _make_merged(folder: Path, progress: Any) -> None:
    if "hf" not in _current(folder):
        from textlora.exporting import export

        export(folder, to="hf", progress=progress)


def _current(folder: Path) -> list[str]:
    """Return the formats that lie in the run folder and were made of the classifier as it is now."""
    known = exports_of(folder) or Exports("")
    return [made.format for made in known.made if not made.refused and (folder / storage.EXPORT / made.format).is_dir()]


def _files(folder: Path) -> Iterator[tuple[str, Path]]:
    places = {"hf": "", **{name: f"{name}/" for name in _current(folder) if name != "hf"}}
    sources = {name: folder / storage.EXPORT / name for name in places} | {storage.ADAPTER: folder / storage.ADAPTER}
    for name, source in sources.items():
        for file in sorted(source.iterdir()):
            if file.is_file() and not file.name.startswith("."):
                yield f"{places.get(name, f'{name}/')}{file.name}", file


def _readme(card: Any, *, repo: str, licence: str, exports: Exports | None) -> str:
    """Return the card with licence, how the exports answered, and how to use what is on the hub."""
    card.data.license = licence
    card.data.library_name = "transformers"
    parts = (card.text.rstrip(), page.exports_for_others(exports) if exports else "", _use(repo))
    card.text = "\n\n".join(part for part in parts if part) + "\n"
    return str(card)


def _use(repo: str) -> str:
    return f"""## From the hub

The folder is merged and needs no PEFT. Long texts, thresholds and "not sure" are textlora's; the pipeline keeps the
start of a long text and gives the most probable label.

```python
from transformers import pipeline

classify = pipeline("text-classification", "{repo}")
print(classify(["some text"], truncation=True))
```"""


def _uploaded(pushed: Pushed, files: dict[str, bytes | Path]) -> Pushed:
    from huggingface_hub import CommitOperationAdd, HfApi, get_token
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if not get_token():
        raise ResourceError("There is no token for the hub.", hint=LOGIN)
    api = HfApi()
    operations = [
        CommitOperationAdd(path_in_repo=name, path_or_fileobj=file if isinstance(file, bytes) else str(file))
        for name, file in files.items()
    ]
    try:
        api.create_repo(pushed.repo, private=pushed.private, exist_ok=True)
        commit = api.create_commit(pushed.repo, operations, commit_message="Upload with textlora")
    except OfflineModeIsEnabled as error:
        raise ResourceError("The hub is turned off (HF_HUB_OFFLINE).", hint="Unset HF_HUB_OFFLINE.") from error
    except HfHubHTTPError as error:
        raise _refused(pushed.repo, error) from error
    except Exception as error:  # of the HTTP client, which is the hub's own affair and has changed before
        raise ResourceError(f"The upload to the hub failed: {_first_line(error)}", hint="Try again later.") from error
    return Pushed(pushed.repo, pushed.licence, pushed.private, pushed.files, str(commit.commit_url))


def _refused(repo: str, error: Any) -> ResourceError:
    status = getattr(error.response, "status_code", 0)
    told = error.server_message or _first_line(error)
    hint = LOGIN if status in (401, 403) else ""
    return ResourceError(f"The hub refuses {repo} ({status}): {told}", hint=hint)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
