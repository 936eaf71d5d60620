"""How much the server takes on: each limit with its default, help text and check."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import Field, ValidationError

from textlora.errors import UsageError, did_you_mean
from textlora.settings import Section

SECTION = "limits."


class Limits(Section):
    """The limits of a server; ``--set limits.queue_texts=1024`` changes one."""

    body_bytes: int = Field(4_000_000, ge=1_000, description="Bytes of a request's body.")
    texts: int = Field(128, ge=1, description="Texts of a request.")
    characters: int = Field(100_000, ge=1, description="Characters of a text.")
    explained_texts: int = Field(8, ge=1, description="Texts of a request that asks for explanations.")
    file_bytes: int = Field(200_000_000, ge=1_000, description="Bytes of an uploaded file.")
    queue_texts: int = Field(512, ge=1, description="Texts that wait at once; a request beyond them gets 429.")
    deadline_seconds: float = Field(
        30.0, gt=0, description="Seconds from a request to its answer; one that would take longer gets 429."
    )
    batch_tokens: int | None = Field(
        None, ge=1, description="Tokens that are computed together; automatic: what suits the device."
    )
    head_seconds: float = Field(10.0, gt=0, description="Seconds in which the head of a request must arrive.")
    body_seconds: float = Field(10.0, gt=0, description="Seconds in which the body of a request must arrive.")
    idle_seconds: int = Field(15, ge=1, description="Seconds that a connection is kept open for another request.")
    connections: int = Field(1_000, ge=1, description="Connections that are open at once.")
    buffered_bytes: int = Field(
        100_000_000, ge=1_000, description="Bytes of all bodies that are held at once; a request beyond them gets 429."
    )


def parse(assignments: Sequence[str]) -> Limits:
    """Turn ``["limits.texts=64"]`` into limits.

    Raises:
        UsageError: unknown names or values out of range, all at once.
    """
    known = [f"{SECTION}{name}" for name in Limits.model_fields]
    values: dict[str, str] = {}
    problems = []
    for text in assignments:
        name, equals, value = (part.strip() for part in text.partition("="))
        if not equals:
            problems.append(f"{text!r} has no '='; write NAME=VALUE, for instance {known[0]}=1000000.")
        elif name not in known:
            close = did_you_mean(name, known) or did_you_mean(f"{SECTION}{name}", known)
            problems.append(f"serve has no setting {name!r}.{close}")
        else:
            values[name.removeprefix(SECTION)] = value.replace("_", "")
    try:
        found = Limits.model_validate(values)
    except ValidationError as error:
        problems += [f"{SECTION}{each['loc'][0]} is {each['input']!r}: {each['msg']}." for each in error.errors()]
    if problems:
        raise UsageError("Cannot use --set:", problems=problems, hint=f"Settings of serve: {', '.join(known)}.")
    return found
