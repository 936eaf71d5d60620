"""File jobs of the server: upload, progress, result, and that nothing stays behind."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ToyRun
from textlora import scoring

LIMIT = 300_000


@pytest.fixture(scope="module")
def classifier(toy_run: ToyRun) -> Any:
    """A tiny model."""
    from textlora.classifier import Classifier

    return Classifier.from_pretrained(toy_run.folder)


@pytest.fixture
def client(classifier: Any, toy_run: ToyRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the whole application, whose files lie in ``tmp_path / "server"``."""
    from starlette.testclient import TestClient

    from textlora.serving.limits import Limits
    from textlora.serving.options import Access
    from textlora.serving.running import application
    from textlora.serving.service import Service

    (tmp_path / "server").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "server"))
    service = Service({"reviews": classifier}, {"reviews": toy_run.folder}, Limits(file_bytes=LIMIT), budget=512)
    with TestClient(application(service, Access()), base_url="http://127.0.0.1:8000") as found:
        found.service = service
        yield found
    assert list((tmp_path / "server").iterdir()) == []


def send(client: Any, content: bytes | str, name: str = "reviews.csv", **options: Any) -> Any:
    body = content.encode() if isinstance(content, str) else content
    return client.post("/files", params={"name": name, **options}, content=body)


def finished(client: Any, answer: Any) -> dict[str, Any]:
    assert answer.status_code == 202, answer.text
    while (job := client.get(f"/files/{answer.json()['id']}").json())["state"] not in ("done", "failed"):
        time.sleep(0.01)
    return job


def table(rows: int) -> str:
    texts = ["a lovely film", "a dull story", "the music was great", ""]
    return "\n".join(["id,review", *(f"{number},{texts[number % 4]}" for number in range(rows))]) + "\n"


def files_of(tmp_path: Path) -> list[Path]:
    return [path for path in (tmp_path / "server").rglob("*") if path.is_file()]


def test_a_file_is_scored_as_the_command_line_does_it(client, classifier, tmp_path):
    content = table(100) + "1,2,3\n"
    (tmp_path / "reviews.csv").write_text(content, encoding="utf-8")
    expected = scoring.score_file(classifier, tmp_path / "reviews.csv", tmp_path / "expected.csv")
    job = finished(client, send(client, content))
    rows = list(csv.DictReader(expected.out.open(encoding="utf-8")))
    given = [row["prediction"] for row in rows if row["prediction"]]
    assert job["counts"] == {label: given.count(label) for label in set(given)}
    assert {name: job[name] for name in ("done", "total", "without_text", "quarantined", "truncated", "not_sure")} == {
        "done": 101, "total": 101, "without_text": 25, "quarantined": 1, "truncated": 0, "not_sure": None,
    }  # fmt: skip
    result = client.get(f"/files/{job['id']}/result")
    assert result.headers["content-disposition"] == 'attachment; filename="reviews.scored.csv"'
    found = list(csv.DictReader(io.StringIO(result.text)))
    assert [{**row, **probabilities(row)} for row in found] == [{**row, **probabilities(row)} for row in rows]


def probabilities(row: dict[str, str]) -> dict[str, Any]:
    """Neighbours in a batch may change the last digits."""
    return {
        name: value and pytest.approx(float(value), abs=1e-4) for name, value in row.items() if "probability" in name
    }


def test_other_formats_and_a_named_column(client):
    lines = '{"a": "one two three", "b": "a fine film"}\n{"a": "four five six", "b": "a dull film"}\n'
    job = finished(client, send(client, lines, "rows.jsonl", text="b"))
    assert (job["state"], job["done"]) == ("done", 2)
    job = finished(client, send(client, lines, "rows.jsonl", text="c"))
    assert job["state"] == "failed"
    assert "'c'" in job["message"]
    assert "--text" not in job["message"]


def test_what_is_not_a_table_is_refused(client, tmp_path):
    answers = [
        send(client, "x", "letter.docx"),
        send(client, "review\n" + "fine " * LIMIT),
        client.post("/files", params={"name": "a.csv"}, content=(b"x" * 1_000 for _ in range(400))),
        client.post("/files", params={"name": "a.csv"}, files={"file": b"review\nfine\n"}),
        send(client, "review\nfine\n", model="other"),
        client.post("/files", content=b"review\nfine\n"),
    ]
    assert [answer.status_code for answer in answers] == [415, 413, 413, 415, 404, 422]
    assert all(answer.json()["error"] for answer in answers)
    assert files_of(tmp_path) == []


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd.csv", "C:\\Users\\me\\..\\x.csv", "\x00<b>\n.csv", "." * 300 + "x.csv", "評" * 400 + ".csv"],
)
def test_no_name_leads_out_of_the_folder(client, tmp_path, name):
    job = finished(client, send(client, table(2), name))
    assert "/" not in job["name"]
    assert "\\" not in job["name"]
    assert job["state"] == "done"
    assert len(files_of(tmp_path)) == 1


def test_messages_do_not_say_where_the_server_keeps_files(client):
    job = finished(client, send(client, b"\x00\x01\x02", "x.csv"))
    assert job["state"] == "failed"
    assert job["message"]
    assert "server" not in job["message"]
    assert client.get(f"/files/{job['id']}/result").status_code == 409


def test_a_removed_file_is_gone(client, tmp_path):
    job = finished(client, send(client, table(3)))
    assert client.delete(f"/files/{job['id']}").status_code == 204
    assert client.get(f"/files/{job['id']}").status_code == 404
    assert client.get(f"/files/{job['id']}/result").status_code == 404
    assert client.delete("/files/unknown").status_code == 404
    assert files_of(tmp_path) == []


def test_a_running_file_can_be_stopped_and_lets_texts_through(client, tmp_path):
    text = "the film was a long story and i loved the end of it"
    answer = send(client, "review\n" + f"{text}\n" * (LIMIT // (len(text) + 1) - 1))
    single = client.post("/predict", json={"inputs": "a fine film"})
    job = client.get(f"/files/{answer.json()['id']}").json()
    assert single.status_code == 200
    assert job["state"] in ("waiting", "running")
    client.delete(f"/files/{job['id']}")
    assert finished(client, send(client, table(3)))["state"] == "done"
    assert len(list((tmp_path / "server" / "*").parent.glob("*/*"))) == 1


def test_files_are_removed_in_time(client, tmp_path, monkeypatch):
    from textlora.serving import jobs

    monkeypatch.setattr(jobs, "AFTER_DOWNLOAD", 0.0)
    job = finished(client, send(client, table(3)))
    assert client.get(f"/files/{job['id']}").status_code == 200
    assert client.get(f"/files/{job['id']}/result").status_code == 200
    assert client.get(f"/files/{job['id']}").status_code == 404
    monkeypatch.setattr(jobs, "LIFETIME", 0.0)
    answer = send(client, table(3))
    while client.get(f"/files/{answer.json()['id']}").status_code != 404:
        time.sleep(0.01)
    assert files_of(tmp_path) == []


def test_only_so_many_files_at_once(client, monkeypatch):
    answers = [send(client, table(2)) for _ in range(17)]
    assert [answer.status_code for answer in answers] == [202] * 16 + [429]
    assert int(answers[-1].headers["retry-after"]) > 0


def test_a_broken_off_upload_leaves_nothing(client, tmp_path):
    messages = [{"type": "http.request", "body": b"review\nfine\n", "more_body": True}, {"type": "http.disconnect"}]
    sent: list[Any] = []

    async def receive() -> Any:
        return messages.pop(0)

    async def send_back(message: Any) -> None:
        sent.append(message)

    headers = [(b"host", b"127.0.0.1"), (b"content-length", b"1000")]
    scope = {"type": "http", "method": "POST", "path": "/files", "query_string": b"name=a.csv", "headers": headers}
    client.portal.call(client.app, scope, receive, send_back)
    assert sent[0]["status"] == 400
    assert files_of(tmp_path) == []


def test_foreign_pages_cannot_upload(client):
    answer = client.post("/files", params={"name": "a.csv"}, content=b"x", headers={"Origin": "http://evil.example"})
    assert answer.status_code == 403


def test_the_spreadsheet_version_runs_no_formulas(client):
    cells = ["=cmd|' /C calc'!A0", "+1+2", "-2.5", "@SUM(A1)", "\tx", 'plain, with "quotes"', "＝1", "-ironic- übel"]
    out = io.StringIO()
    csv.writer(out).writerows([["review"], *([cell] for cell in cells)])
    job = finished(client, send(client, out.getvalue()))
    plain = client.get(f"/files/{job['id']}/result").text
    answer = client.get(f"/files/{job['id']}/result", params={"spreadsheet": True})
    assert answer.content.startswith(b"\xef\xbb\xbf")
    safe = list(csv.reader(io.StringIO(answer.content.decode("utf-8-sig"))))
    assert [row[0] for row in csv.reader(io.StringIO(plain))][1:] == cells
    assert [row[0] for row in safe][1:] == [
        "'=cmd|' /C calc'!A0", "'+1+2", "-2.5", "'@SUM(A1)", "'\tx", 'plain, with "quotes"', "'＝1", "'-ironic- übel",
    ]  # fmt: skip
    assert [row[1:] for row in safe] == [row[1:] for row in csv.reader(io.StringIO(plain))]


def test_texts_are_cut_into_blocks():
    from textlora.serving.jobs import BLOCK_CHARACTERS, BLOCK_TEXTS, blocks

    texts = ["x"] * (BLOCK_TEXTS + 1) + ["y" * BLOCK_CHARACTERS * 2, "z"]
    assert [len(block) for block in blocks(texts)] == [BLOCK_TEXTS, 1, 1, 1]
    assert [text for block in blocks(texts) for text in block] == texts
    assert list(blocks([])) == []


def test_page_and_report_carry_their_guards(client, toy_run):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert page.headers["referrer-policy"] == "no-referrer"
    again = client.get("/", headers={"If-None-Match": page.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    assert client.get("/static/page.css").headers["content-type"].startswith("text/css")
    assert client.get("/static/..%2Fpage.py").status_code == 404
    assert client.get("/report/reviews").json()["error"].startswith("reviews has no report. `textlora report")
    assert client.get("/report/unknown").status_code == 404
    assert client.get("/opened/unknown").status_code == 404
