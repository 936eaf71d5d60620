"""Foreign clients: Triton's own over HTTP, Prometheus' parser, Schemathesis over the description."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.served import serving

TEXTS = ["a great film", "dull and awful plot", "日本語 film", "", "film " * 200]
# FP32 numbers of a double.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def server(toy_run):
    from textlora.serving import running
    from textlora.serving.limits import Limits

    with serving(running.service_over({"toy": toy_run.folder}, Limits(), device="cpu")) as served:
        yield served


@pytest.fixture(scope="module")
def expected(server):
    return server.service.classifiers["toy"].predict(TEXTS)


# gevent, which Triton's client uses, wants to be first in a process of its own.
TRITON = """
import json, sys
import numpy as np
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

port, texts = sys.argv[1], json.loads(sys.argv[2])
client = triton.InferenceServerClient(f"127.0.0.1:{port}")
found = {
    "live": client.is_server_live(), "ready": client.is_server_ready(), "model": client.is_model_ready("toy"),
    "version": client.is_model_ready("toy", "1"), "other": client.is_model_ready("other"),
    "server": client.get_server_metadata(), "metadata": client.get_model_metadata("toy"),
    "index": client.get_model_repository_index(),
}
data = np.array([text.encode() for text in texts], dtype=object)
for name, shape, binary_in, outputs in [
    ("binary", [len(texts)], True, None),
    ("json", [len(texts)], False, False),
    ("column", [len(texts), 1], True, True),
    ("mixed", [len(texts)], False, True),
]:
    given = triton.InferInput("text", shape, "BYTES")
    given.set_data_from_numpy(data.reshape(shape), binary_data=binary_in)
    wanted = None if outputs is None else [
        triton.InferRequestedOutput(each, binary_data=outputs) for each in ("probabilities", "label", "truncated", "given")
    ]
    result = client.infer("toy", [given], outputs=wanted, request_id="r-1")
    label = result.as_numpy("label").tolist()
    found[name] = {
        "label": [each.decode() if isinstance(each, bytes) else each for each in label],
        "probabilities": result.as_numpy("probabilities").tolist(),
        "truncated": result.as_numpy("truncated").tolist(), "given": result.as_numpy("given").tolist(),
        "id": result.get_response().get("id"),
    }
empty = triton.InferInput("text", [0], "BYTES")
empty.set_data_from_numpy(np.array([], dtype=object))
found["empty"] = client.infer("toy", [empty]).as_numpy("probabilities").shape
wrong = triton.InferInput("words", [1], "BYTES")
wrong.set_data_from_numpy(np.array([b"a"], dtype=object))
try:
    client.infer("toy", [wrong])
except InferenceServerException as error:
    found["error"] = [error.status(), error.message()]
print(json.dumps(found))
"""


def test_tritons_client(server, expected):
    pytest.importorskip("tritonclient", reason="Triton's client is not installed")
    done = subprocess.run(
        [sys.executable, "-c", TRITON, str(server.port), json.dumps(TEXTS)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)

    assert [found[name] for name in ("live", "ready", "model", "version", "other")] == [True, True, True, True, False]
    assert found["server"]["name"] == "textlora"
    assert found["index"] == [{"name": "toy", "version": "1", "state": "READY"}]
    assert found["metadata"]["inputs"] == [{"name": "text", "datatype": "BYTES", "shape": [-1]}]
    assert {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]} in found["metadata"]["outputs"]
    rows = [list(prediction.probabilities.values()) for prediction in expected]
    for name in ("binary", "json", "column", "mixed"):
        assert found[name]["label"] == [prediction.label for prediction in expected]
        assert np.abs(np.array(found[name]["probabilities"]) - rows).max() < ROUNDING
        assert found[name]["truncated"] == [False] * 4 + [True]
        assert np.array(found[name]["given"]).argmax(1).tolist() == np.array(rows).argmax(1).tolist()
        assert found[name]["id"] == "r-1"
    assert found["empty"] == [0, 2]
    assert found["error"] == ["400", "Expected the input 'text' of datatype BYTES."]


def test_prometheus_reads_the_figures(server):
    from prometheus_client.parser import text_string_to_metric_families

    families = {family.name for family in text_string_to_metric_families(server.ask("GET", "/metrics").body.decode())}
    assert {"textlora_requests", "textlora_texts", "textlora_request_seconds", "textlora_waiting_texts"} <= families


FUZZ = """
import sys
import schemathesis
from hypothesis import HealthCheck, Phase, settings

port, examples = sys.argv[1], int(sys.argv[2])
schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{port}/openapi.json")
asked = 0
for operation in schema.get_all_operations():
    case_strategy = operation.ok().as_strategy()
    from hypothesis import given

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck),
              phases=[Phase.generate])
    @given(case=case_strategy)
    def ask(case):
        global asked
        asked += 1
        response = case.call()
        assert response.status_code < 500, (case.formatted_path, response.status_code, response.text)

    ask()
print(asked)
"""


def fuzz(server, examples):
    pytest.importorskip("schemathesis", reason="Schemathesis is not installed")
    done = subprocess.run(
        [sys.executable, "-c", FUZZ, str(server.port), str(examples)],
        capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3_000:]
    return int(done.stdout.strip().splitlines()[-1])


def test_no_request_by_the_description_is_too_much(server):
    assert fuzz(server, 3) > 20
    assert server.ask("GET", "/health").status == 200


@pytest.mark.slow
def test_no_request_of_5000_by_the_description_is_too_much(server):
    assert fuzz(server, 500) >= 5_000
    assert server.ask("GET", "/health").status == 200
