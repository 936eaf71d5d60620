"""The server: its answers are the classifier's, whoever asks beside; what it refuses, and how."""

from __future__ import annotations

import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tests.served import relabelled, serving

TEXTS = ["a great film", "dull and awful plot", "i loved the music", "boring", "the story was never bad"]
# The same text in another batch: sums of fp32 in another order.
ROUNDING = 1e-5
LIMITS = {
    "body_bytes": 20_000, "texts": 16, "characters": 5_000, "head_seconds": 0.6, "body_seconds": 0.6, "explained_texts": 2, "idle_seconds": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def service(toy_run, tmp_path_factory):
    from textlora.serving import running
    from textlora.serving.limits import Limits

    other = relabelled(toy_run.folder, tmp_path_factory.mktemp("other") / "other", ["sun", "rain"])
    return running.service_over({"toy": toy_run.folder, "weather": other}, Limits(**LIMITS), device="cpu")


@pytest.fixture(scope="module")
def server(service):
    with serving(service) as served:
        yield served


@pytest.fixture(scope="module")
def classifier(service):
    return service.classifiers["toy"]


def scores(row):
    return {each["label"]: each["score"] for each in row}


def test_answers_are_the_classifiers(server, classifier):
    reply = server.predict(TEXTS, model="toy")

    assert reply.status == 200
    for row, prediction in zip(reply.json, classifier.predict(TEXTS), strict=True):
        assert scores(row) == pytest.approx(prediction.probabilities, abs=ROUNDING)
        assert row[0]["label"] == prediction.label


def test_one_text_gets_one_row_however_it_came(server, classifier):
    ((best,),) = server.predict(TEXTS[0], model="toy", top_k=1).json
    assert best["label"] == classifier.predict(TEXTS[:1])[0].label
    assert len(server.predict([[TEXTS[0]], [TEXTS[1]]], model="toy").json) == 2
    assert len(server.predict([TEXTS[0]], model="toy").json) == 1
    assert server.predict([], model="toy").json == []


def test_hugging_faces_own_client_reads_the_answer(toy_run, classifier, monkeypatch):
    from huggingface_hub import InferenceClient, constants

    from textlora.serving import running
    from textlora.serving.limits import Limits

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)  # it would refuse any address
    alone = running.service_over({"toy": toy_run.folder}, Limits(**LIMITS), device="cpu")
    with serving(alone) as served:
        found = InferenceClient(f"http://127.0.0.1:{served.port}/predict").text_classification(TEXTS[1])

    expected = classifier.predict([TEXTS[1]])[0].probabilities
    assert {each.label: each.score for each in found} == pytest.approx(expected, abs=ROUNDING)


def test_logits_on_request(server, classifier):
    (row,) = server.predict(TEXTS[1], model="toy", raw_scores=True).json

    expected = dict(zip(classifier.label_names, classifier.logits([TEXTS[1]])[0], strict=True))
    assert scores(row) == pytest.approx(expected, abs=ROUNDING)


def test_each_model_has_its_own_labels(server):
    toy, weather = server.predict(TEXTS, model="toy").json, server.predict(TEXTS, model="weather").json

    for one, other in zip(toy, weather, strict=True):
        # The second model is the first with its head turned around.
        assert scores(other) == pytest.approx(
            {"sun": scores(one)["positive"], "rain": scores(one)["negative"]}, abs=ROUNDING
        )


def test_models_over_one_base_hold_its_weights_once(service):
    first, second = (each.model for each in service.classifiers.values())
    base = {name: each for name, each in second.named_parameters() if "lora_" not in name and "classifier" not in name}
    held = {each.untyped_storage().data_ptr() for each in first.parameters()}

    assert len(base) > 30
    assert [name for name, each in base.items() if each.untyped_storage().data_ptr() not in held] == []


def test_texts_of_both_models_at_once(server, classifier):
    expected = [prediction.probabilities["positive"] for prediction in classifier.predict(TEXTS)]

    def one(number):
        text = number % len(TEXTS)
        name, label = [("toy", "positive"), ("weather", "sun")][number % 2]
        return text, scores(server.predict(TEXTS[text], model=name).json[0])[label]

    with ThreadPoolExecutor(16) as pool:
        for text, found in pool.map(one, range(160)):
            assert found == pytest.approx(expected[text], abs=ROUNDING)


def test_which_model_is_meant(server):
    unnamed, unknown = server.predict("a"), server.predict("a", model="toi")

    assert (unnamed.status, unknown.status) == (422, 404)
    assert unnamed.json["error"] == "Several models are served; name one as `model`. Models: toy, weather."
    assert unknown.json["error"] == "There is no model 'toi'. Did you mean 'toy'? Models: toy, weather."


def test_details_say_what_was_cut(server, classifier):
    long = "film " * 200
    found = server.predict([long, "film"], model="toy", details=True)

    assert [each["truncated"] for each in found.json["predictions"]] == [True, False]
    assert found.headers["x-truncated"] == "1"
    refused = server.predict(["film", long], model="toy", truncate=False)
    assert refused.status == 413
    assert refused.json == {
        "error": "`inputs` must have at most 64 tokens without `truncate`; text 1 has 202.",
        "error_type": "validation",
    }
    assert server.predict(["film"], model="toy", truncate=False).status == 200


def test_explanations_are_the_classifiers(server, classifier):
    found = server.predict(TEXTS[:2], model="toy", explain=True).json["predictions"]

    for answer, expected in zip(found, classifier.explain(TEXTS[:2]), strict=True):
        assert answer["explanation"]["label"] == answer["label"] == expected.label
        spans = answer["explanation"]["spans"]
        assert [(span["start"], span["end"]) for span in spans] == [(span.start, span.end) for span in expected.spans]
        weights = [span.weight for span in expected.spans]
        assert [span["weight"] for span in spans] == pytest.approx(weights, abs=1e-3)


def test_info_and_status(server):
    info = server.ask("GET", "/info").json

    assert [(model["name"], model["labels"], model["task"]) for model in info["models"]] == [
        ("toy", ["negative", "positive"], "single_label"),
        ("weather", ["sun", "rain"], "single_label"),
    ]
    assert info["models"][0]["text_column"] == "review"
    assert {model["max_length"] for model in info["models"]} == {64}
    assert server.ask("GET", "/health").json == {"status": "ok"}
    assert server.ask("GET", "/ready").json == {"status": "ready"}


def test_metrics_count_requests_and_texts(server):
    def figure(line):
        lines = server.ask("GET", "/metrics").body.decode().splitlines()
        return next((float(each.rpartition(" ")[2]) for each in lines if each.startswith(line)), 0.0)

    texts, requests = 'textlora_texts_total{model="toy"}', 'textlora_requests_total{route="/predict",status="200"}'
    before = figure(texts), figure(requests)
    server.predict(TEXTS, model="toy")
    assert figure(texts) - before[0] == len(TEXTS)
    assert figure(requests) - before[1] == 1
    assert figure("textlora_waiting_texts") == 0


def test_docs_need_nothing_from_elsewhere(server):
    page = server.ask("GET", "/docs")

    assert "POST /predict" in page.body.decode()
    assert "http" not in page.body.decode().replace("http-equiv", "")
    assert page.headers["content-security-policy"].startswith("default-src 'none'")
    assert "/v2/models/{model}/infer" in server.ask("GET", "/openapi.json").json["paths"]


DEEP = b"[" * 9_000
WRONG = {
    "no JSON": (b"{", 422),
    "nothing": (b"", 422),
    "a list": (b"[]", 422),
    "null": (b"null", 422),
    "no inputs": (b"{}", 422),
    "a number": (b'{"inputs": 3}', 422),
    "an object": (b'{"inputs": {"text": "a"}}', 422),
    "null among texts": (b'{"inputs": ["a", null]}', 422),
    "a number among texts": (b'{"inputs": ["a", 1]}', 422),
    "a pair": (b'{"inputs": [["a", "b"]]}', 422),
    "an empty row": (b'{"inputs": [[]]}', 422),
    "three levels": (b'{"inputs": [[["a"]]]}', 422),
    "NaN": (b'{"inputs": NaN}', 422),
    "infinity as top_k": (b'{"inputs": "a", "top_k": Infinity}', 422),
    "NaN as top_k": (b'{"inputs": "a", "top_k": NaN}', 422),
    "top_k 0": (b'{"inputs": "a", "top_k": 0}', 422),
    "top_k below 0": (b'{"inputs": "a", "top_k": -1}', 422),
    "top_k as text": (b'{"inputs": "a", "top_k": "2"}', 422),
    "top_k 1.5": (b'{"inputs": "a", "top_k": 1.5}', 422),
    "a huge number": (b'{"inputs": "a", "top_k": 1' + b"0" * 5_000 + b"}", 422),
    "truncate as text": (b'{"inputs": "a", "truncate": "yes"}', 422),
    "explain as number": (b'{"inputs": "a", "explain": 1}', 422),
    "model as number": (b'{"inputs": "a", "model": 1}', 422),
    "half a character as model": (b'{"inputs": "a", "model": "\\ud800"}', 404),
    "a long name": (b'{"inputs": "a", "model": "' + b"m" * 9_000 + b'"}', 404),
    "deep": (b'{"inputs": ' + DEEP, 422),
    "deep and closed": (b'{"inputs": ' + DEEP + b"]" * 9_000 + b"}", 422),
    "deep objects": (b'{"a":' * 3_000 + b"1" + b"}" * 3_000, 422),
    "not UTF-8": (b'{"inputs": "\xff\xfe"}', 422),
    "UTF-16": ('{"inputs": 1}'.encode("utf-16"), 422),
    "zero byte": (b'{"inputs": \x00}', 422),
    "single quotes": (b"{'inputs': 'a'}", 422),
    "a comment": (b'{"inputs": 3} // text', 422),
    "two documents": (b'{"inputs": "a"}{"inputs": "b"}', 422),
    "trailing comma": (b'{"inputs": ["a",]}', 422),
    "too many texts": (json.dumps({"inputs": ["a"] * 17, "model": "toy"}).encode(), 413),
    "too long a text": (json.dumps({"inputs": "a" * 5_001, "model": "toy"}).encode(), 413),
    "too large a body": (b'{"inputs": "' + b"a" * 20_000 + b'"}', 413),
    "too many to explain": (b'{"inputs": ["a", "b", "c"], "explain": true, "model": "toy"}', 413),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_refused(server, name):
    body, status = WRONG[name]
    reply = server.ask("POST", "/predict", raw=body)

    # 400 is what the framework says to some kinds of broken JSON.
    assert reply.status == status or (status, reply.status) == (422, 400)
    assert set(reply.json) == {"error", "error_type"}
    assert len(reply.body) < 2_000


@pytest.mark.parametrize(
    "text", ["", " ", "\ud800", "a\udfffb", "\x00", "\u202e", "😀" * 40, "a" * 4_999, "\n\t", "日本語の文章"]
)
def test_every_text_gets_an_answer(server, text):
    assert server.predict(text, model="toy", details=True, explain=True).status == 200


def test_no_text_comes_back_in_a_refusal(server):
    reply = server.ask("POST", "/predict", {"inputs": ["a secret", 3]})

    assert reply.status == 422
    assert "secret" not in reply.body.decode()


def test_wrong_addresses_and_methods(server):
    assert server.ask("GET", "/nowhere").status == 404
    assert server.ask("GET", "/predict").status == 405
    assert server.ask("DELETE", "/info").json["error_type"] == "not_found"
    assert server.ask("POST", "/predict", raw=b'{"inputs": "a"}', headers={"Content-Type": "text/plain"}).status == 422


def exchange(server, *pieces, pause=0.0, patience=10):
    """Send pieces of bytes with pauses between; return what comes back until the connection ends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=patience) as connection:
        for piece in pieces:
            try:
                connection.sendall(piece)
            except OSError:
                break
            time.sleep(pause)
        found = b""
        try:
            while piece := connection.recv(65_536):
                found += piece
        except OSError:
            pass
    return found


HEAD = b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
BODY = b'{"inputs": "a great film", "model": "toy"}'
LENGTH = b"Content-Length: %d\r\n\r\n"


def test_a_head_that_does_not_end_is_cut_off(server):
    assert exchange(server, *[b"GET /info HTTP/1.1\r\n", b"X-Slow: 1\r\n"] * 3, pause=0.15).startswith(b"HTTP/1.1 408")
    assert exchange(server).startswith(b"HTTP/1.1 408")


def test_a_head_that_dribbles_after_an_answer_is_cut_off(server):
    whole = b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"
    found = exchange(server, whole, b"GET /hea", pause=0.2)
    assert found.startswith(b"HTTP/1.1 200")
    assert b"HTTP/1.1 408" in found


def test_a_body_that_does_not_end_is_cut_off(server):
    found = exchange(server, HEAD + LENGTH % 1_000, *[b" "] * 8, pause=0.12)
    assert found.startswith(b"HTTP/1.1 408")
    assert b"did not arrive within 0.6 s" in found
    assert exchange(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n \r\n").startswith(b"HTTP/1.1 408")


def test_clients_with_too_large_a_body_get_to_read_why(server):
    for _ in range(5):
        assert server.ask("POST", "/predict", raw=b"a" * 20_000_000).status == 413


def test_too_large_bodies_are_not_kept(server):
    assert exchange(server, HEAD + LENGTH % 10**9).startswith(b"HTTP/1.1 413")
    assert exchange(server, HEAD + LENGTH % 10**15 + b"a").startswith(b"HTTP/1.1 413")
    chunk = b"2000\r\n" + b"a" * 0x2000 + b"\r\n"
    found = exchange(server, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 4)
    assert found.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na",
        b"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 200_000 + b"\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost: localhost\r\n" + b"X: a\r\n" * 30_000 + b"\r\n",
        b"GET /info HTTP/1.1\r\n\r\n",
        b"GET /info HTTP/1.1\r\nHost: a\r\nHost: localhost\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /info\x00 HTTP/1.1\r\nHost: localhost\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n",
    ],
)
def test_what_is_no_http_is_refused(server, request_bytes):
    found = exchange(server, request_bytes)

    assert found[:10] == b"HTTP/1.1 4"
    assert server.ask("GET", "/health").status == 200


def test_a_client_that_leaves_is_forgotten(server):
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(HEAD + LENGTH % len(BODY) + BODY)
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(HEAD + LENGTH % len(BODY) + BODY[:10])
    assert server.predict("a", model="toy").status == 200


def test_connections_are_kept_and_pipelined(server):
    once = HEAD + LENGTH % len(BODY) + BODY
    found = exchange(server, once * 3)
    assert found.count(b"HTTP/1.1 200") == 3


class TestAccess:
    """Who is answered."""

    KEY = b"a-key-of-enough-letters"

    @pytest.fixture(scope="class")
    def locked(self, toy_run):
        from textlora.serving import running
        from textlora.serving.limits import Limits

        service = running.service_over({"toy": toy_run.folder}, Limits(connections=8), device="cpu")
        with serving(service, key=self.KEY) as served:
            yield served

    @pytest.mark.parametrize(
        "given", [None, "", "Bearer", "Bearer ", "Bearer wrong", "Basic a-key-of-enough-letters", "Bearer \xe9"]
    )
    def test_without_the_key_nothing_is_answered(self, locked, given):
        headers = {} if given is None else {"Authorization": given}
        for path in ("/info", "/metrics", "/v2/models/toy", "/report/toy", "/files/x"):
            reply = locked.ask("GET", path, headers=headers)
            assert (reply.status, reply.headers["www-authenticate"]) == (401, "Bearer")

    def test_with_the_key(self, locked):
        key = {"Authorization": f"Bearer {self.KEY.decode()}"}
        assert locked.ask("GET", "/info", headers=key).status == 200
        assert locked.ask("POST", "/predict", {"inputs": "a"}, headers=key).status == 200

    def test_a_large_body_without_the_key_is_refused_and_not_kept(self, locked):
        body = b"a" * 2_000_000
        assert locked.ask("POST", "/predict", raw=body).status == 401
        found = exchange(locked, HEAD + LENGTH % 10**9 + b"a" * 10)
        assert found.startswith(b"HTTP/1.1 401")
        assert b"connection: close" in found.lower()

    def test_status_is_open(self, locked):
        for path in ("/health", "/ready", "/v2/health/live", "/v2/health/ready"):
            assert locked.ask("GET", path).status == 200

    def test_one_connection_too_many_is_told_to_come_back(self, locked):
        open_ones = [socket.create_connection(("127.0.0.1", locked.port)) for _ in range(8)]
        try:
            time.sleep(0.2)
            found = exchange(locked)
        finally:
            for connection in open_ones:
                connection.close()
        assert found.startswith(b"HTTP/1.1 429")
        head, _, body = found.partition(b"\r\n\r\n")
        assert b"Retry-After: 1" in head
        assert json.loads(body)["error_type"] == "overloaded"


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::2]", ""])
def test_another_name_is_refused(server, host):
    reply = server.ask("GET", "/info", headers={"Host": host})

    assert reply.status == 400
    assert reply.json["error"].startswith("This server is not called by that name")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1234", "127.0.0.1", "[::1]:8000"])
def test_its_own_names_are_answered(server, host):
    assert server.ask("GET", "/info", headers={"Host": host}).status == 200


@pytest.mark.parametrize(
    "headers", [{"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}]
)
def test_other_web_pages_are_refused(server, headers):
    body = {"inputs": "a", "model": "toy"}
    assert server.ask("POST", "/predict", body, headers=headers).status == 403
    own = {"Host": "localhost:1", "Origin": "http://localhost:1", "Sec-Fetch-Site": "same-origin"}
    assert server.ask("POST", "/predict", body, headers=own).status == 200


class Slow:
    """A real classifier that takes its time."""

    def __init__(self, classifier, seconds):
        self._classifier = classifier
        self._seconds = seconds
        self.batches = []

    def __getattr__(self, name):
        return getattr(self._classifier, name)

    def predict(self, texts):
        self.batches.append(len(texts))
        time.sleep(self._seconds)
        return self._classifier.predict(texts)


@pytest.fixture
def slow(classifier, tmp_path):
    from textlora.serving.limits import Limits
    from textlora.serving.service import Service

    def make(seconds, **limits):
        return Service({"toy": Slow(classifier, seconds)}, {"toy": tmp_path}, Limits(**limits), budget=512)

    return make


def test_overload_gets_429_and_the_rest_their_answers(slow):
    with serving(slow(0.1, queue_texts=8, batch_tokens=40)) as served, ThreadPoolExecutor(64) as pool:
        replies = list(pool.map(lambda _: served.predict("a great film"), range(64)))

        statuses = [reply.status for reply in replies]
        assert set(statuses) == {200, 429}
        refused = replies[statuses.index(429)]
        assert int(refused.headers["retry-after"]) >= 1
        assert refused.json["error_type"] == "overloaded"
        assert served.predict("a great film").status == 200


def test_what_would_be_too_late_gets_429(slow):
    with serving(slow(0.3, deadline_seconds=0.5, batch_tokens=10)) as served, ThreadPoolExecutor(12) as pool:
        replies = list(pool.map(lambda _: served.predict("a great film"), range(12)))

        assert {reply.status for reply in replies} == {200, 429}
        assert all("retry-after" in reply.headers for reply in replies if reply.status == 429)


def test_texts_that_wait_are_computed_together(slow):
    service = slow(0.2)
    with serving(service) as served, ThreadPoolExecutor(9) as pool:
        list(pool.map(lambda _: served.predict("a great film"), range(9)))

    assert sorted(service.classifiers["toy"].batches, reverse=True)[0] >= 4


def test_a_single_text_does_not_wait_for_a_long_request(slow):
    with serving(slow(0.1, batch_tokens=60)) as served, ThreadPoolExecutor(2) as pool:
        done = []

        def ask(name, texts):
            served.predict(texts)
            done.append(name)

        many = pool.submit(ask, "many", ["a great film of the year"] * 64)
        time.sleep(0.25)
        ask("one", "a great film")
        many.result()
    assert done == ["one", "many"]


class Failing(Slow):
    """A real classifier that cannot bear one text."""

    def predict(self, texts):
        time.sleep(self._seconds)
        if any("poison" in text for text in texts):
            raise RuntimeError(f"cannot read {texts}")
        return self._classifier.predict(texts)


def test_a_failure_is_the_failing_requests_alone(classifier, tmp_path, caplog):
    from textlora.serving.limits import Limits
    from textlora.serving.service import Service

    service = Service({"toy": Failing(classifier, 0.1)}, {"toy": tmp_path}, Limits(), budget=512)
    with serving(service) as served, ThreadPoolExecutor(8) as pool:
        texts = ["a great film"] * 3 + ["poison"] + ["boring"] * 4
        replies = list(pool.map(served.predict, texts))

    assert [reply.status for reply in replies] == [200] * 3 + [500] + [200] * 4
    assert replies[3].json["error_type"] == "backend"
    # The message holds a text, which no log may have.
    assert "poison" not in caplog.text + replies[3].body.decode()


def test_what_was_accepted_is_answered_before_the_end(slow):
    replies = []
    with serving(slow(0.3, batch_tokens=10)) as served:
        threads = [threading.Thread(target=lambda: replies.append(served.predict("a great film"))) for _ in range(5)]
        for thread in threads:
            thread.start()
        time.sleep(0.2)
    for thread in threads:
        thread.join()

    assert [reply.status for reply in replies] == [200] * 5
    assert replies[-1].headers["connection"] == "close"
    with pytest.raises(ConnectionRefusedError):
        served.ask("GET", "/health")


def test_predictions_inside_the_house_have_no_limits(service, server, classifier):
    texts = TEXTS * 20
    found = service.predict("toy", texts)

    positive = [prediction.probabilities["positive"] for prediction in classifier.predict(texts)]
    assert [each.probabilities["positive"] for each in found] == pytest.approx(positive, abs=ROUNDING)
    assert np.isfinite(positive).all()
