"""``POST /predict`` as text-embeddings-inference has it, and what goes beyond it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr
from starlette.responses import Response

from textlora.serving.refusals import REFUSALS, ServerFault, json_response
from textlora.serving.service import Service
from textlora.types import Explanation, Prediction

TRUNCATED = "X-Truncated"


class PredictRequest(BaseModel):
    """Texts to be classified."""

    model_config = ConfigDict(extra="ignore")

    inputs: Annotated[
        StrictStr | list[StrictStr] | list[Annotated[list[StrictStr], Field(min_length=1, max_length=1)]],
        Field(description="One text, a list of texts, or a list of lists with one text each."),
    ]
    truncate: StrictBool = Field(
        True, description="Cut a longer text as in training; if false, it is refused with status 413."
    )
    raw_scores: StrictBool = Field(False, description="Logits instead of probabilities.")
    top_k: int | None = Field(None, ge=1, strict=True, description="Only so many labels of each text.")
    model: StrictStr | None = Field(None, description="Name of the model; needed where several are served.")
    details: StrictBool = Field(
        False, description="An object with `predictions`: the decision, whether the text was cut, all scores."
    )
    explain: StrictBool = Field(False, description="Details with the words that carried the decision.")

    @property
    def texts(self) -> list[str]:
        """The texts, whatever form they came in."""
        if isinstance(self.inputs, str):
            return [self.inputs]
        return [each if isinstance(each, str) else each[0] for each in self.inputs]


class Score(BaseModel):
    """A label of a text."""

    label: str
    score: float


class Span(BaseModel):
    """A part of a text; above zero it spoke for the label."""

    start: int
    end: int
    weight: float
    probability: float


class Explained(BaseModel):
    """Which words carried the probability of a label."""

    label: str
    complete: bool
    spans: list[Span]


class Detailed(BaseModel):
    """The decision on a text."""

    label: str
    score: float
    labels: list[str]
    scores: list[Score]
    truncated: bool
    abstains: bool
    possible: list[str]
    explanation: Explained | None = None


class Details(BaseModel):
    """The decisions on all texts."""

    predictions: list[Detailed]


def router(service: Service) -> APIRouter:
    """Return the route."""
    found = APIRouter(tags=["predict"])

    answer = {"model": list[list[Score]] | Details, "description": "A row of labels for each text, or details."}

    @found.post("/predict", response_class=Response, responses={200: answer, **REFUSALS})
    async def predict(asked: PredictRequest) -> Response:
        """Classify one text or several."""
        model = service.model(asked.model)
        texts = asked.texts
        check(service, texts, explain=asked.explain)
        if not asked.truncate:
            await check_whole(service, model, texts)
        if asked.raw_scores and not (asked.details or asked.explain):
            return await _raw(service, model, asked)
        predictions: list[Prediction] = await service.answers(model, texts)
        headers = {TRUNCATED: str(sum(prediction.truncated for prediction in predictions))}
        if asked.details or asked.explain:
            explanations = await service.explain(model, texts, predictions) if asked.explain else [None] * len(texts)
            found = [_detailed(*both, asked.top_k) for both in zip(predictions, explanations, strict=True)]
            return json_response({"predictions": found}, headers=headers)
        rows = [_scores(prediction, asked.top_k) for prediction in predictions]
        return json_response(rows, headers=headers)

    return found


async def _raw(service: Service, model: str, asked: PredictRequest) -> Response:
    names = service.classifiers[model].label_names
    rows = [
        _sorted(dict(zip(names, np.asarray(logits).tolist(), strict=True)), asked.top_k)
        for logits in await service.answers(model, asked.texts, raw=True)
    ]
    return json_response(rows)


def check(service: Service, texts: Sequence[str], *, explain: bool = False) -> None:
    """Compare a request with the limits.

    Raises:
        ServerFault: 413 for too many or too long texts.
    """
    limits = service.limits
    most = limits.explained_texts if explain else limits.texts
    if len(texts) > most:
        asked = "with explanations " if explain else ""
        raise ServerFault(413, "validation", f"A request {asked}may hold {most} texts; this one holds {len(texts)}.")
    longest = max((len(text) for text in texts), default=0)
    if longest > limits.characters:
        place = next(number for number, text in enumerate(texts) if len(text) == longest)
        raise ServerFault(
            413,
            "validation",
            f"A text may have {limits.characters:,} characters; text {place} has {longest:,}.",
        )


async def check_whole(service: Service, model: str, texts: Sequence[str]) -> None:
    """Compare texts that must not be cut with what the model sees whole.

    Raises:
        ServerFault: 413 for one that is longer.
    """
    classifier = service.classifiers[model]
    counts = await asyncio.to_thread(classifier.count_tokens, texts)
    for place, tokens in enumerate(counts):
        if tokens > classifier.whole_length:
            raise ServerFault(
                413,
                "validation",
                f"`inputs` must have at most {classifier.whole_length} tokens without `truncate`; text {place} has {tokens}.",
            )


def _sorted(scores: dict[str, float], top_k: int | None) -> list[dict[str, Any]]:
    # Stable: the first of equals, as in the decision.
    order = sorted(scores, key=lambda name: -scores[name])
    return [{"label": name, "score": scores[name]} for name in order[:top_k]]


def _scores(prediction: Prediction, top_k: int | None) -> list[dict[str, Any]]:
    """Return the labels, the most probable first; before them the one given, which a threshold may have chosen."""
    found = _sorted(dict(prediction.probabilities), None)
    return sorted(found, key=lambda each: each["label"] != prediction.label)[:top_k]


def _detailed(prediction: Prediction, explained: Explanation | None, top_k: int | None) -> dict[str, Any]:
    found: dict[str, Any] = {
        "label": prediction.label,
        "score": prediction.probability,
        "labels": list(prediction.labels),
        "scores": _scores(prediction, top_k),
        "truncated": prediction.truncated,
        "abstains": prediction.abstains,
        "possible": list(prediction.labels),
    }
    if explained is not None:
        spans = [
            {"start": span.start, "end": span.end, "weight": span.weight, "probability": span.probability}
            for span in explained.spans
        ]
        found["explanation"] = {"label": explained.label, "complete": explained.complete, "spans": spans}
    return found
