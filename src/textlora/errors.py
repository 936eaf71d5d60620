"""The exception tree and its exit codes.

    TextloraError                1   (a bug of ours when raised bare)
    ├── UsageError               2   wrong option, unknown setting, unreadable plan
    ├── DataError                3   the user's file cannot become a data set
    ├── ResourceError            4   disk, memory, network, missing package or model
    ├── TrainingError            4   the training run itself went wrong (NaN, frozen adapter)
    └── Interrupted            130   Ctrl-C or SIGTERM (143), after the state was saved

Every error says what was found, what was expected and what to do next. Problems that can be
seen together are reported together.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class TextloraError(Exception):
    """Base of all errors that textlora raises on purpose.

    Args:
        message: what was found and where, in one or two sentences.
        hint: what to do next; shown on a line of its own.
        problems: all single problems found together, shown as a list.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", problems: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.problems = tuple(problems)

    def __str__(self) -> str:
        """Return message, problems and hint as plain lines."""
        lines = [self.message, *(f"  - {problem}" for problem in self.problems)]
        if self.hint:
            lines.append(self.hint)
        return "\n".join(lines)


class UsageError(TextloraError):
    """The call itself is wrong: an option, a setting, a plan that does not fit."""

    exit_code = 2


class DataError(TextloraError):
    """The user's file cannot become a data set."""

    exit_code = 3


class ResourceError(TextloraError):
    """Something outside is missing: disk, memory, network, a package, a model."""

    exit_code = 4


class TrainingError(TextloraError):
    """Training went wrong: a NaN loss, an adapter that did not move, a reload that differs."""

    exit_code = 4


class Interrupted(TextloraError):
    """The user or the system asked to stop; what could be saved is saved."""

    exit_code = 130

    def __init__(self, message: str, *, hint: str = "", exit_code: int = 130) -> None:
        super().__init__(message, hint=hint)
        self.exit_code = exit_code


class TextloraWarning(UserWarning):
    """Something works otherwise than it could, and the user should know."""


def did_you_mean(found: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the closest known name, or an empty string."""
    names = list(known)
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(found.casefold(), list(folded), n=1, cutoff=0.6)
    return f" Did you mean {folded[close[0]]!r}?" if close else ""
