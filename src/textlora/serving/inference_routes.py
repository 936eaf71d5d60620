"""The Open Inference Protocol, version 2, as KServe's and Triton's clients speak it.

Input: ``text``, BYTES (N,) or (N, 1). Outputs, any of them by name, all without: ``label`` BYTES (N,),
``probabilities`` FP32 (N, C) in the order of the labels in the model's metadata, ``given`` BOOL (N, C) which labels
the text is given, ``truncated`` and ``abstains`` BOOL (N,).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from fastapi import APIRouter, Request
from starlette.responses import Response

from textlora import __version__
from textlora.serving.predict_routes import check
from textlora.serving.refusals import REFUSALS, ServerFault, json_response
from textlora.serving.service import Service
from textlora.serving.tensors import HEAD_LENGTH, Output, join_answer, read_texts, split_body
from textlora.types import Prediction

if TYPE_CHECKING:
    from textlora.classifier import Classifier

INPUT = "text"
# There is one version of a model at a time.
VERSION = "1"
DTYPES = {"BYTES": np.dtype(object), "FP32": np.dtype(np.float64), "BOOL": np.dtype(np.bool_)}
EXTENSIONS = ["binary_tensor_data", "model_repository"]


@dataclass(frozen=True)
class Kind:
    """An output: its datatype, whether it has a column for each label, and its value for one text."""

    datatype: str
    wide: bool
    value: Callable[[Prediction, Classifier], Any]

    def shape(self, texts: int, labels: int) -> tuple[int, ...]:
        """Return (N,) or (N, C)."""
        return (texts, labels) if self.wide else (texts,)


def _given(prediction: Prediction, classifier: Classifier) -> list[bool]:
    several = classifier.bundle.task == "multi_label"
    given = prediction.labels if several else (prediction.label,)
    return [name in given for name in classifier.label_names]


OUTPUTS = {
    "label": Kind("BYTES", False, lambda prediction, _: prediction.label),
    "probabilities": Kind(
        "FP32", True, lambda prediction, classifier: [prediction.probabilities[name] for name in classifier.label_names]
    ),
    "given": Kind("BOOL", True, _given),
    "truncated": Kind("BOOL", False, lambda prediction, _: prediction.truncated),
    "abstains": Kind("BOOL", False, lambda prediction, _: prediction.abstains),
}
REQUEST_SCHEMA = {
    "type": "object", "required": ["inputs"],
    "properties": {
        "id": {"type": "string"},
        "parameters": {"type": "object"},
        "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": {
            "type": "object", "required": ["name", "shape", "datatype"],
            "properties": {
                "name": {"const": INPUT}, "datatype": {"const": "BYTES"},
                "shape": {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1, "maxItems": 2},
                "data": {"type": "array", "items": {"type": "string"}},
                "parameters": {"type": "object"},
            },
        }},
        "outputs": {"type": "array", "items": {
            "type": "object", "required": ["name"],
            "properties": {"name": {"enum": list(OUTPUTS)}, "parameters": {"type": "object"}},
        }},
    },
}  # fmt: skip
BODY = {"requestBody": {"required": True, "content": {"application/json": {"schema": REQUEST_SCHEMA}}}}


def router(service: Service) -> APIRouter:
    """Return the routes."""
    found = APIRouter(prefix="/v2", tags=["open inference protocol"])

    @found.get("", response_class=Response)
    async def server() -> Response:
        """Return the server's metadata."""
        return json_response({"name": "textlora", "version": __version__, "extensions": EXTENSIONS})

    @found.get("/health/live", response_class=Response)
    async def live() -> Response:
        """Tell whether the server lives."""
        return _status(service.worker.alive, live=service.worker.alive)

    @found.get("/health/ready", response_class=Response)
    async def ready() -> Response:
        """Tell whether requests are answered."""
        return _status(service.ready, ready=service.ready)

    @found.post("/repository/index", response_class=Response)
    async def index() -> Response:
        """List the models."""
        state = "READY" if service.ready else "UNAVAILABLE"
        return json_response([{"name": name, "version": VERSION, "state": state} for name in service.classifiers])

    for prefix in ("/models/{model}", "/models/{model}/versions/{version}"):
        _add_model_routes(found, service, prefix)
    return found


def _add_model_routes(found: APIRouter, service: Service, prefix: str) -> None:
    @found.get(prefix, response_class=Response)
    async def metadata(model: str, version: str = VERSION) -> Response:
        """Return a model's inputs and outputs."""
        return json_response(_metadata(service, _known(service, model, version)))

    @found.get(f"{prefix}/ready", response_class=Response)
    async def model_ready(model: str, version: str = VERSION) -> Response:
        """Tell whether a model answers."""
        return _status(service.ready, name=_known(service, model, version), ready=service.ready)

    @found.post(f"{prefix}/infer", response_class=Response, openapi_extra=BODY, responses=REFUSALS)
    async def infer(request: Request, model: str, version: str = VERSION) -> Response:
        """Classify the texts of a tensor."""
        name = _known(service, model, version)
        if request.headers.get("content-encoding", "identity") != "identity":
            raise ServerFault(415, "validation", "Compressed requests are not read.")
        head, binary = split_body(await request.body(), request.headers.get(HEAD_LENGTH))
        texts = read_texts(head, binary, name=INPUT).texts
        wanted = _wanted(head)
        check(service, texts)
        predictions = await service.answers(name, texts, seconds=_timeout(head))
        made = [(_output(output, predictions, service.classifiers[name]), binary) for output, binary in wanted]
        return _answer(_echo(head, name), made)


def _known(service: Service, model: str, version: str) -> str:
    name = service.model(model)
    if version != VERSION:
        raise ServerFault(404, "not_found", f"There is one version of a model, {VERSION!r}.")
    return name


def _status(good: bool, **content: Any) -> Response:
    return json_response(content, 200 if good else 503)


def _metadata(service: Service, name: str) -> dict[str, Any]:
    labels = list(service.classifiers[name].label_names)
    outputs = [
        {"name": output, "datatype": kind.datatype, "shape": list(kind.shape(-1, len(labels)))}
        for output, kind in OUTPUTS.items()
    ]
    return {
        "name": name, "versions": [VERSION], "platform": "textlora", "parameters": {"labels": labels},
        "inputs": [{"name": INPUT, "datatype": "BYTES", "shape": [-1]}], "outputs": outputs,
    }  # fmt: skip


def _echo(head: dict[str, Any], name: str) -> dict[str, Any]:
    identity = head.get("id")
    return {"model_name": name, "model_version": VERSION} | ({"id": identity} if isinstance(identity, str) else {})


def _parameters(of: Any) -> dict[str, Any]:
    found = of.get("parameters") if isinstance(of, dict) else None
    return found if isinstance(found, dict) else {}


def _timeout(head: dict[str, Any]) -> float | None:
    """Return the seconds that a client waits; the protocol has microseconds."""
    found = _parameters(head).get("timeout")
    return found / 1e6 if type(found) is int and 0 < found < 1e15 else None  # noqa: PLR2004


def _wanted(head: dict[str, Any]) -> list[tuple[str, bool]]:
    """Return the outputs asked for, each with whether it shall be binary."""
    usual = _parameters(head).get("binary_data_output") is True
    asked = head.get("outputs")
    if not asked:
        return [(name, usual) for name in OUTPUTS]
    names = (
        [each.get("name") if isinstance(each, dict) else None for each in asked] if isinstance(asked, list) else [None]
    )
    if not all(isinstance(name, str) and name in OUTPUTS for name in names):
        raise ServerFault(400, "validation", f"An output is not known; there are {', '.join(OUTPUTS)}.")
    return [(each["name"], _parameters(each).get("binary_data", usual) is True) for each in asked]


def _output(name: str, predictions: Sequence[Prediction], classifier: Classifier) -> Output:
    kind = OUTPUTS[name]
    values = np.array([kind.value(each, classifier) for each in predictions], dtype=DTYPES[kind.datatype])
    return Output(name, kind.datatype, values.reshape(kind.shape(len(predictions), len(classifier.label_names))))


def _answer(head: dict[str, Any], outputs: Sequence[tuple[Output, bool]]) -> Response:
    body, length = join_answer(head, outputs)
    if length is None:
        return Response(body, media_type="application/json")
    return Response(body, media_type="application/octet-stream", headers={HEAD_LENGTH: str(length)})
