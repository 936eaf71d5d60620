"""The server's parts on their own: queue, tensors, names, options, limits, command line."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import ROOT
from tests.test_cli import call
from textlora.errors import UsageError
from textlora.serving import limits, loading, options, tensors
from textlora.serving.queue import Queue, Task
from textlora.serving.refusals import ServerFault


def task(count, *, model="m", tokens=10, deadline=60.0, raw=False):
    moment = None if deadline is None else time.monotonic() + deadline
    return Task(model, [f"{model}{number}" for number in range(count)], [tokens] * count, raw=raw, deadline=moment)


def answer(batch):
    for each, place in batch.places:
        each.answer(place, each.texts[place])


class TestQueue:
    """Order, bounds, fairness."""

    def test_all_texts_are_handed_out_once_in_any_batches(self):
        draw = np.random.default_rng(4)
        for budget in (1, 35, 80, 10_000):
            queue = Queue(texts=10_000, deadline=60)
            tasks = [task(int(draw.integers(1, 9)), tokens=int(draw.integers(1, 60))) for _ in range(40)]
            for each in tasks:
                queue.put(each)
            queue.close()
            while batch := queue.take(budget):
                assert batch.tokens <= budget or len(batch.places) == 1
                answer(batch)
            assert [each.future.result() for each in tasks] == [list(each.texts) for each in tasks]
            assert (queue.texts, queue.tokens) == (0, 0)

    def test_requests_take_turns(self):
        queue = Queue(texts=100, deadline=60)
        long, short = task(8), task(1)
        queue.put(long)
        queue.take(40)
        queue.put(short)
        assert short in queue.take(40).tasks

    def test_a_batch_has_one_model_and_one_kind(self):
        queue = Queue(texts=100, deadline=60)
        for model, raw in [("a", False), ("b", False), ("a", True), ("a", False), ("b", False)]:
            queue.put(task(1, model=model, raw=raw))
        queue.close()
        found = []
        while batch := queue.take(1_000):
            found.append((batch.model, batch.raw, len(batch.places)))
        assert found == [("a", False, 2), ("b", False, 2), ("a", True, 1)]

    def test_no_room_for_more_texts(self):
        queue = Queue(texts=4, deadline=60)
        queue.put(task(3))
        with pytest.raises(ServerFault) as refused:
            queue.put(task(2))
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (429, "1")
        queue.put(task(1))

    def test_a_request_alone_may_be_larger_than_the_queue(self):
        queue = Queue(texts=4, deadline=60)
        queue.put(task(9))
        assert queue.texts == 9

    def test_what_would_end_too_late_is_refused_at_once(self):
        queue = Queue(texts=100, deadline=2)
        queue.measured(tokens=10, seconds=1.0)
        queue.put(task(1))
        with pytest.raises(ServerFault) as refused:
            queue.put(task(2))
        assert "waiting for about 1 s" in refused.value.message

    def test_work_inside_the_house_is_never_refused(self):
        queue = Queue(texts=1, deadline=1)
        queue.put(task(50, deadline=None))
        queue.put(task(50, deadline=None))
        queue.put(task(1))
        assert queue.texts == 101

    def test_late_and_forsaken_requests_are_dropped(self):
        queue = Queue(texts=100, deadline=60)
        late, forsaken, good = task(2, deadline=-1), task(2), task(1)
        for each in (late, forsaken, good):
            queue.put(each)
        forsaken.future.cancel()
        assert queue.take(1_000).tasks == [good]
        assert late.future.exception().status == 429

    def test_after_the_end_nothing_is_taken(self):
        queue = Queue(texts=100, deadline=60)
        queue.close()
        with pytest.raises(ServerFault):
            queue.put(task(1))
        assert queue.take(10) is None


class TestTensors:
    """JSON and binary."""

    def test_bytes_there_and_back(self):
        elements = [b"", b"a", "é😀".encode(), b"\x00" * 300]
        assert tensors.unpack_bytes(tensors.pack_bytes(elements)) == elements

    @pytest.mark.parametrize("cut", [1, 3, 5, 7])
    def test_bytes_that_end_early(self, cut):
        with pytest.raises(ServerFault):
            tensors.unpack_bytes(tensors.pack_bytes([b"abc", b"defg"])[:-cut])

    @pytest.mark.parametrize("length", ["x", "-1", "1e3", "99", "9" * 5_000, ""])
    def test_a_head_length_that_does_not_fit(self, length):
        with pytest.raises(ServerFault, match="number of bytes within the body"):
            tensors.split_body(b"{}", length)

    @pytest.mark.parametrize(
        "tensor",
        [
            {"name": "other", "datatype": "BYTES", "shape": [1], "data": ["a"]},
            {"name": "text", "datatype": "FP32", "shape": [1], "data": [1.0]},
            {"name": "text", "datatype": "BYTES", "shape": [2], "data": ["a"]},
            {"name": "text", "datatype": "BYTES", "shape": [1, 2], "data": ["a", "b"]},
            {"name": "text", "datatype": "BYTES", "shape": [-1], "data": ["a"]},
            {"name": "text", "datatype": "BYTES", "shape": [True], "data": ["a"]},
            {"name": "text", "datatype": "BYTES", "shape": "1", "data": ["a"]},
            {"name": "text", "datatype": "BYTES", "shape": [1], "data": [3]},
            {"name": "text", "datatype": "BYTES", "shape": [1], "data": "a"},
            {"name": "text", "datatype": "BYTES", "shape": [1]},
            {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": {"binary_data_size": 7}},
            {"name": "text", "datatype": "BYTES", "shape": [1], "parameters": []},
        ],
    )
    def test_inputs_that_are_no_texts(self, tensor):
        with pytest.raises(ServerFault) as refused:
            tensors.read_texts({"inputs": [tensor]}, b"", name="text")
        assert refused.value.status == 400

    def test_rows_of_one_element(self):
        tensor = {"name": "text", "datatype": "BYTES", "shape": [2, 1], "data": [["a"], ["b"]]}
        assert tensors.read_texts({"inputs": [tensor]}, b"", name="text").texts == ["a", "b"]


class TestNames:
    """What models are called."""

    def test_by_their_folders(self):
        found = loading.named_folders(["runs/reviews/", "runs/mail/adapter", "spam=runs/x"])
        assert {name: str(folder) for name, folder in found.items()} == {
            "reviews": "runs/reviews", "mail": "runs/mail/adapter", "spam": "runs/x",
        }  # fmt: skip

    def test_twice_the_same_and_impossible_ones(self):
        with pytest.raises(UsageError) as error:
            loading.named_folders(["a/run", "b/run", "x/y=c", "=d"])
        assert str(error.value) == (
            "Cannot name the models:\n"
            "  - 'b/run': a/run is called 'run' too.\n"
            "  - 'x/y=c': a model cannot be called 'x/y'; letters, digits, '-', '_' and '.' can be.\n"
            "  - '=d': a model cannot be called ''; letters, digits, '-', '_' and '.' can be.\n"
            "Write NAME=FOLDER to choose a name."
        )


class TestAccess:
    """Where to listen and whom to answer."""

    def test_the_network_needs_a_key(self, monkeypatch):
        monkeypatch.delenv(options.KEY_VARIABLE, raising=False)
        for host in ("0.0.0.0", "192.168.1.2", "::", "example.com"):
            with pytest.raises(UsageError, match="there is no API key"):
                options.access(host, 8000)
        for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
            assert options.access(host, 8000).api_key is None

    def test_the_key_comes_from_the_environment_or_a_file(self, monkeypatch, tmp_path):
        monkeypatch.setenv(options.KEY_VARIABLE, "from-the-environment")
        file = tmp_path / "key"
        file.write_text("from-the-file-of-mine\n")
        assert options.access("0.0.0.0", 1).api_key == b"from-the-environment"
        assert options.access("0.0.0.0", 1, key_file=file).api_key == b"from-the-file-of-mine"
        assert "from-the" not in repr(options.access("0.0.0.0", 1))

    @pytest.mark.parametrize("key", ["short", "a key with spaces in it", "ключ-ключ-ключ-ключ", ""])
    def test_keys_that_are_none(self, key, tmp_path):
        file = tmp_path / "key"
        file.write_text(key)
        with pytest.raises(UsageError, match="cannot be used; expected 16 or more"):
            options.access("127.0.0.1", 1, key_file=file)

    def test_names(self, monkeypatch):
        monkeypatch.setenv(options.KEY_VARIABLE, "a-key-of-enough-letters")
        assert options.access("0.0.0.0", 1).hosts == ()
        assert options.access("0.0.0.0", 1, allowed_hosts=("API.example",)).hosts[-1] == "api.example"
        assert options.access("127.0.0.1", 1, allowed_hosts=("*",)).hosts == ()
        assert options.access("::1", 1).hosts == options.LOOPBACK_NAMES


def test_limits_are_set_by_name():
    assert limits.parse(["limits.texts=7", "limits.body_bytes=1_000_000"]).texts == 7
    with pytest.raises(UsageError) as error:
        limits.parse(["texts=7", "limits.queue_text=1", "limits.characters=0", "x"])
    assert error.value.problems == (
        "serve has no setting 'texts'. Did you mean 'limits.texts'?",
        "serve has no setting 'limits.queue_text'. Did you mean 'limits.queue_texts'?",
        "'x' has no '='; write NAME=VALUE, for instance limits.body_bytes=1000000.",
        "limits.characters is '0': Input should be greater than or equal to 1.",
    )


def test_wrong_calls_of_the_command(monkeypatch, toy_run):
    monkeypatch.delenv(options.KEY_VARIABLE, raising=False)
    for arguments, said in [
        (["runs/missing"], "There is no folder runs/missing."),
        ([str(toy_run.folder), "--host", "0.0.0.0"], "0.0.0.0 can be reached from other machines"),
        ([str(toy_run.folder), "--host", "203.0.113.7", "--api-key-file", "nowhere"], "Cannot read the API key"),
        ([str(toy_run.folder), "--set", "limits.text=1"], "Did you mean 'limits.texts'?"),
    ]:
        result = call("serve", *arguments)
        assert result.code == 2
        assert said in result.err


def test_a_port_that_is_taken(toy_run):
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = call("serve", str(toy_run.folder), "--port", str(port), "--device", "cpu")
    assert result.code == 4
    assert f"Port {port} of 127.0.0.1 is in use." in result.err


def test_missing_packages_name_their_command(monkeypatch, toy_run):
    from textlora import extras, serve_command

    missing = extras.Extra("no_such_server", (1, 0), "serve")
    monkeypatch.setattr(serve_command, "SERVE", (missing,))
    result = call("serve", str(toy_run.folder))
    assert result.code == 4
    assert "no_such_server is not installed" in result.err
    assert "pip install 'textlora[serve]'" in result.err


def test_the_command_serves_until_sigterm(toy_run):
    command = [sys.executable, "-m", "textlora", "serve", f"toy={toy_run.folder}", "--port", "0", "--device", "cpu"]
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'src'}"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        lines = []
        while not (found := re.search(r"Serving toy on http://127\.0\.0\.1:(\d+)", lines[-1] if lines else "")):
            lines.append(process.stderr.readline())
            assert lines[-1], lines
        from tests.served import Served

        assert Served(int(found[1]), None).predict("a secret film").status == 200
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 0
    assert err.strip() == "Stopped; what was accepted has been answered."
    assert "secret" not in out + err + "".join(lines)


class TestImage:
    """The files for containers say what they should."""

    def test_the_image(self):
        lines = Path(ROOT / "Dockerfile").read_text("utf-8").splitlines()
        words = {}
        for line in lines:
            if found := re.match(r"([A-Z]+)\s+(.*)", line):
                words.setdefault(found[1], []).append(found[2])
        assert all(re.search(r":\d+\.\d+", image) for image in words["FROM"])
        assert words["USER"][-1] not in ("root", "0")
        assert "/ready" in words["HEALTHCHECK"][0] or "/ready" in "\n".join(lines)
        assert not re.search(r"API_KEY\s*=|SECRET|PASSWORD|TOKEN\s*=", "\n".join(lines))
        assert "textlora" in words["ENTRYPOINT"][-1]

    def test_the_composition(self):
        import yaml

        service = yaml.safe_load(Path(ROOT / "compose.yaml").read_text("utf-8"))["services"]["textlora"]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
        assert any(volume.endswith(":ro") for volume in service["volumes"])
        assert "secrets" in service


def test_the_docs_name_every_limit_with_its_default():
    page = (ROOT / "docs" / "serving.md").read_text("utf-8")
    for name, field in limits.Limits.model_fields.items():
        assert f"`limits.{name}`" in page
        shown = "by device" if field.default is None else f"{field.default:,}".removesuffix(".0")
        if name not in ("head_seconds", "body_seconds"):  # in one line
            assert f"`limits.{name}` | {shown} |" in page


def test_connections_that_nobody_took_over_are_found_at_the_end():
    from textlora.serving.connections import _waiting

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(8)
        listening.setblocking(False)
        clients = [socket.create_connection(listening.getsockname()) for _ in range(3)]
        found = list(_waiting(listening))
        assert [each.getpeername() for each in found] == [each.getsockname() for each in clients]
        assert not any(each.getblocking() for each in found)
        assert list(_waiting(listening)) == []
        for each in (*clients, *found):
            each.close()
