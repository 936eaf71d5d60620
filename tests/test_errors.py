"""The exception tree: exit codes, texts, suggestions."""

from __future__ import annotations

import pickle

import pytest

from textlora import errors


def test_text_of_an_error_with_everything():
    error = errors.UsageError("Cannot do it:", problems=["one", "two"], hint="Do this.")
    assert str(error) == "Cannot do it:\n  - one\n  - two\nDo this."
    assert error.problems == ("one", "two")


def test_text_of_a_bare_error():
    assert str(errors.TextloraError("It broke.")) == "It broke."


@pytest.mark.parametrize(
    ("kind", "code"),
    [
        (errors.TextloraError, 1),
        (errors.UsageError, 2),
        (errors.DataError, 3),
        (errors.ResourceError, 4),
        (errors.TrainingError, 4),
        (errors.Interrupted, 130),
    ],
)
def test_exit_codes(kind, code):
    assert kind("x").exit_code == code
    assert issubclass(kind, errors.TextloraError)


def test_sigterm_has_its_own_exit_code():
    error = errors.Interrupted("Stopped.", hint="Go on.", exit_code=143)
    assert (error.exit_code, str(error)) == (143, "Stopped.\nGo on.")


@pytest.mark.parametrize(
    "error", [errors.DataError("a", problems=["b"], hint="c"), errors.Interrupted("a", exit_code=143)]
)
def test_errors_cross_process_borders(error):
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), copy.exit_code) == (type(error), str(error), error.exit_code)


@pytest.mark.parametrize(
    ("found", "known", "suggestion"),
    [
        ("Reveiw", ["id", "review", "label"], " Did you mean 'review'?"),
        ("REVIEW", ["Review"], " Did you mean 'Review'?"),
        ("xyz", ["review", "label"], ""),
        ("review", [], ""),
        ("", ["review"], ""),
    ],
)
def test_did_you_mean(found, known, suggestion):
    assert errors.did_you_mean(found, known) == suggestion


def test_did_you_mean_takes_any_iterable():
    assert errors.did_you_mean("labl", (name for name in ("text", "label"))) == " Did you mean 'label'?"
