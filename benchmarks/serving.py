"""The server under load, beside offline prediction on the same texts; both in one run, taking turns.

    python -m benchmarks.serving [--quick] [--json] [--data FILE] [--rounds N]

A server with the embedded model, trained for an epoch before, answers 64 clients that each ask for one text after the
other, for 20 seconds a round. The clients run in a process of their own; the time that they take is the server's loss.

    errors            answers under load that are none, or not those of offline prediction
    throughput_share  texts a second served, over those of ``Classifier.predict`` in between
    p50_ms, p99_ms    from request to answer, with 64 clients
    burst_5xx         answers of 500 and above to 512 clients at once; and the seconds until a text is quick again
    rss_growth        memory after 20,000 short requests over that after the first 2,000
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks import command, reviews
from benchmarks.http_load import Answer
from benchmarks.measuring import tell
from textlora import Classifier, embedded, planning, training
from textlora.types import Prediction

TRAINED = 64
CLIENTS = 64
BURST = 512
# Until the server has built its kernels and the clients have spread out.
SETTLING = 3.0
# bf16 adds up in another order where a micro-batch is small; see docs/serving.md.
TOLERANCE = 5e-3
SHORT = 60
# Another burst would be as slow; a text that is answered within so many times the usual is quick again.
QUICK = 3.0


@dataclass(frozen=True)
class Size:
    """How much is asked for."""

    texts: int
    seconds: float
    soak: int


SIZES = {False: Size(2_048, 20.0, 20_000), True: Size(512, 8.0, 2_000)}


@dataclass
class Server:
    """A server in a process of its own."""

    port: int
    process: psutil.Process
    scratch: Path

    def load(self, texts: Sequence[str], **options: Any) -> list[Answer]:
        """Let clients ask; return the answers."""
        given, found = self.scratch / "texts.json", self.scratch / "answers.jsonl"
        given.write_text(json.dumps(list(texts)), encoding="utf-8")
        words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
        subprocess.run(
            [sys.executable, "-m", "benchmarks.http_load", str(self.port), str(given), str(found), *words], check=True
        )
        return [Answer(**json.loads(line)) for line in found.read_text(encoding="utf-8").splitlines()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show, write the result file."""
    options = command.parse("serving", __doc__ or "", rounds=3, arguments=arguments)
    size = SIZES[options.quick]
    found = reviews.load(options.data, size.texts)
    with tempfile.TemporaryDirectory() as scratch:
        run = _run_folder(found, Path(scratch))
        classifier = Classifier.from_pretrained(run)
        expected = classifier.predict(found.texts)
        with _server(run, Path(scratch)) as server:
            server.load(found.texts, clients=CLIENTS, seconds=2 * SETTLING)
            rounds = [_round(classifier, server, found.texts, size, number) for number in range(options.rounds)]
            burst = _burst(server, found.texts)
            soak = _soak(server, found.texts, size.soak)
    answers = [answer for each in rounds for answer in each["answers"]]
    wrong = [answer for answer in answers if not _right(answer, expected)]
    seconds = sorted(answer.seconds for answer in answers)
    figures = {
        "errors": len(wrong),
        "throughput_share": median(each["served"] / each["offline"] for each in rounds),
        "p50_ms": 1000 * seconds[len(seconds) // 2],
        "p99_ms": 1000 * seconds[int(0.99 * len(seconds))],
        "burst_5xx": burst["errors"],
        "burst_normal_seconds": burst["normal_seconds"],
        "rss_growth": soak["growth"],
    }
    details = {
        "reviews": {"mean_tokens": found.mean_length},
        "rounds": [{name: each[name] for name in ("offline", "served", "statuses")} for each in rounds],
        "requests": len(answers),
        "largest_difference": max(
            (_difference(each, expected) for each in answers if each.status == 200), default=None
        ),
        "burst": burst,
        "soak": soak,
        "precision": classifier.bundle.precision,
    }
    command.finish(options, figures, details)


def _run_folder(found: reviews.Reviews, scratch: Path) -> Path:
    tell("training a classifier for one epoch …")
    prepared = reviews.data_set(found.spread(TRAINED, 0), scratch)
    plan = planning.plan(prepared, base_model=embedded.NAME, assignments={"training.epochs": 1})
    return training.train(plan, prepared).folder


@contextmanager
def _server(run: Path, scratch: Path) -> Iterator[Server]:
    words = [sys.executable, "-m", "textlora", "serve", str(run), "--port", "0"]
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:(\d+)", line):
                break
        else:
            raise RuntimeError("".join(lines))
        try:
            yield Server(int(found[1]), psutil.Process(process.pid), scratch)
        finally:
            process.send_signal(signal.SIGTERM)


def _round(classifier: Classifier, server: Server, texts: Sequence[str], size: Size, number: int) -> dict[str, Any]:
    """Predict offline, then under load; the order changes from round to round."""

    def offline() -> float:
        start = time.perf_counter()
        classifier.predict(texts[: size.texts // 2])
        return size.texts // 2 / (time.perf_counter() - start)

    def served() -> tuple[list[Answer], float]:
        answers = server.load(texts, clients=CLIENTS, seconds=size.seconds)
        ends = [answer.sent + answer.seconds for answer in answers if answer.status == 200]
        steady = sum(SETTLING <= end < size.seconds for end in ends)
        return answers, steady / (size.seconds - SETTLING)

    if number % 2:
        (answers, rate), alone = served(), offline()
    else:
        alone, (answers, rate) = offline(), served()
    statuses = Counter(str(answer.status) for answer in answers)
    tell(f"  round {number + 1}  offline {alone:.1f} texts/s, served {rate:.1f} texts/s, {dict(statuses)}")
    return {"offline": alone, "served": rate, "answers": answers, "statuses": dict(statuses)}


def _difference(answer: Answer, expected: Sequence[Prediction]) -> float:
    wanted = expected[answer.text].probabilities
    (row,) = answer.content
    return max(abs(each["score"] - wanted[each["label"]]) for each in row)


def _right(answer: Answer, expected: Sequence[Prediction]) -> bool:
    """Return whether an answer is that of offline prediction, its label too unless two are as good as equal."""
    if answer.status != 200 or _difference(answer, expected) > TOLERANCE:
        return False
    first, second = sorted(expected[answer.text].probabilities.values(), reverse=True)[:2]
    return answer.content[0][0]["label"] == expected[answer.text].label or first - second < 2 * TOLERANCE


def _burst(server: Server, texts: Sequence[str]) -> dict[str, Any]:
    """Ask with very many clients at once, then one by one until the answers are as quick as before."""
    short = [text[:SHORT] for text in texts[:50]]
    usual = median(answer.seconds for answer in server.load(short, clients=1, seconds=60, most=50))
    answers = server.load(texts, clients=BURST, seconds=60, most=BURST)
    start, normal = time.perf_counter(), None
    while normal is None and time.perf_counter() - start < 60:
        if median(answer.seconds for answer in server.load(short, clients=1, seconds=60, most=10)) < QUICK * usual:
            normal = time.perf_counter() - start
    statuses = Counter(str(answer.status) for answer in answers)
    tell(f"  burst of {BURST}: {dict(statuses)}; quick again after {normal} s at most")
    bad = sum(answer.status == 0 or answer.status >= 500 for answer in answers)
    return {"statuses": dict(statuses), "errors": bad, "usual_seconds": usual, "normal_seconds": normal}


def _soak(server: Server, texts: Sequence[str], requests: int) -> dict[str, Any]:
    """Send many short requests; compare memory and open files after the first tenth and in the end."""
    short = [text[:SHORT] for text in texts]
    seen = []
    for count in (requests // 10, requests - requests // 10):
        answers = server.load(short, clients=CLIENTS, seconds=3_600, most=count)
        seen.append((server.process.memory_info().rss, server.process.num_fds(), len(answers)))
    growth = seen[1][0] / seen[0][0] - 1
    tell(
        f"  soak of {requests:,}: memory {seen[0][0] / 1e6:.0f} to {seen[1][0] / 1e6:.0f} MB, files {seen[0][1]} to {seen[1][1]}"
    )
    return {
        "requests": requests,
        "rss_bytes": [each[0] for each in seen],
        "files": [each[1] for each in seen],
        "growth": growth,
    }


if __name__ == "__main__":
    main()
