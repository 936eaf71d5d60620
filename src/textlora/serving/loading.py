"""Run folders to classifiers; several over one base model share its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textlora import storage
from textlora.errors import UsageError

if TYPE_CHECKING:
    from textlora.classifier import Classifier

Progress = Callable[[str, int, int, str], None]
WARM_UP = ("a", "warm text " * 40)


def named_folders(runs: Sequence[str]) -> dict[str, Path]:
    """Return the folders by the names that their models are served under.

    Args:
        runs: each ``FOLDER``, served under the folder's name, or ``NAME=FOLDER``.

    Raises:
        UsageError: two have the same name, or a name cannot stand in an address; all problems at once.
    """
    found: dict[str, Path] = {}
    problems = []
    for run in runs:
        name, equals, rest = run.partition("=")
        folder = Path(rest if equals else run)
        name = name if equals else _usual_name(folder)
        if not name or not name.replace("-", "").replace("_", "").replace(".", "").isalnum():
            problems.append(f"{run!r}: a model cannot be called {name!r}; letters, digits, '-', '_' and '.' can be.")
        elif name in found:
            problems.append(f"{run!r}: {found[name]} is called {name!r} too.")
        else:
            found[name] = folder
    if problems:
        raise UsageError("Cannot name the models:", problems=problems, hint="Write NAME=FOLDER to choose a name.")
    return found


def _usual_name(folder: Path) -> str:
    whole = folder.resolve()
    return whole.parent.name if whole.name == storage.ADAPTER else whole.name


def load(
    folders: Mapping[str, Path], *, device: str | None = None, progress: Progress | None = None
) -> dict[str, Classifier]:
    """Load the classifiers and compute with each once, so that the first request does not wait for kernels.

    Args:
        folders: by the name of the model.
        device: as for ``Classifier.from_pretrained``.
        progress: called with ``load``, models done, models in all and the next one's name.

    Raises:
        UsageError, ResourceError: as ``Classifier.from_pretrained``.
    """
    from textlora.classifier import Classifier

    found: dict[str, Classifier] = {}
    for name, folder in folders.items():
        if progress:
            progress("load", len(found), len(folders), name)
        classifier = Classifier.from_pretrained(folder, device=device)
        share_base(classifier, found.values())
        classifier.predict(list(WARM_UP))
        found[name] = classifier
    return found


def share_base(classifier: Classifier, others: Iterable[Classifier]) -> int:
    """Let a classifier use the base weights of one that is loaded already, if they are the same.

    Returns:
        The bytes that it no longer holds itself.
    """
    for other in others:
        if _same_base(classifier, other):
            return _share(classifier.model, other.model)
    return 0


def _same_base(first: Classifier, second: Classifier) -> bool:
    def key(classifier: Classifier) -> tuple[Any, ...]:
        bundle = classifier.bundle
        return bundle.base_fingerprint, bundle.precision, bundle.bits

    torch_models = all(hasattr(each.model, "named_parameters") for each in (first, second))
    return torch_models and key(first) == key(second)


def _share(model: Any, other: Any) -> int:
    """Point the parameters of ``model`` at the memory of equal ones of ``other``."""
    known = {_plain(name): parameter for name, parameter in other.named_parameters()}
    saved = 0
    for name, parameter in model.named_parameters():
        held = known.get(_plain(name))
        if held is None or held.shape != parameter.shape or held.dtype != parameter.dtype:
            continue
        # Trained layers have the same names but other values.
        if held.data_ptr() != parameter.data_ptr() and bool((held == parameter).all()):
            saved += parameter.numel() * parameter.element_size()
            parameter.data = held.data
    return saved


def _plain(name: str) -> str:
    """Return a parameter's name as it is without adapters around the layer."""
    return name.replace(".base_layer.", ".")
