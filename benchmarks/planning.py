r"""Is the planner right? Jobs in fresh processes, what was predicted beside what was measured.

    python -m benchmarks.planning --data IMDB.csv                 # the grid of 24 jobs
    python -m benchmarks.planning --data IMDB.csv --only "top 3"  # jobs whose name contains this; may be repeated
    python -m benchmarks.planning --data IMDB.csv --missing       # jobs that the result file does not have yet
    python -m benchmarks.planning --data IMDB.csv --memory        # memory alone; times, measured and predicted, stay as they are
    python -m benchmarks.planning --data IMDB.csv --repredict     # predictions alone, for what was measured before

Two encoders x (LoRA in all layers, top three with cache, full fine-tuning, 4 bits) x three profiles of
text lengths, with a small and a large micro-batch in turn, so that every pair of values occurs. distilbert-base has random weights: time and
memory do not depend on the values. A job is `textlora fit`, without what is before training; full
fine-tuning, which textlora does not offer, is our trainer over Hugging Face's model. The terms are
measured once for each kind of job before, and cached, as for a user. Memory may be measured beside other work,
time may not: where others computed, it does not count. The result file keeps what it has of other jobs.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import machine, models, planning_picture, planning_results
from benchmarks.planning_jobs import Job, grid, read_texts, write_reviews

RESULTS = Path(__file__).parent / "results" / "planning.json"


def main() -> None:
    """Run the jobs one after the other, show predicted beside measured, and keep results and plot after each."""
    options = _options()
    known = planning_results.read(options.results)
    facts = {**machine.facts(), "note": models.NOTE, "data": options.data.name if options.data else "example"}
    texts = read_texts(options.data)
    for job in _chosen(options, known):
        known[job] = _result(job, texts, known.get(job, {}), options)
        print(planning_results.line(known[job]), flush=True)
        _keep(options.results, known, facts)
    print(json.dumps(planning_results.summarise(list(known.values())), indent=1))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="IMDB in Kaggle's format; the shipped example without it")
    parser.add_argument("--quick", action="store_true", help="a quarter of the jobs")
    parser.add_argument("--only", action="append", default=[], help="jobs whose name contains this; may be repeated")
    parser.add_argument("--missing", action="store_true", help="only jobs that the result file does not have")
    parser.add_argument("--memory", action="store_true", help="measure memory alone, where there are times already")
    parser.add_argument("--repredict", action="store_true", help="predict anew for what was measured before")
    parser.add_argument("--list", action="store_true", help="name the jobs and stop")
    parser.add_argument("--results", type=Path, default=RESULTS, help="the file that is added to")
    options = parser.parse_args()
    if options.list:
        print("\n".join(map(str, grid())))
        raise SystemExit
    return options


def _chosen(options: argparse.Namespace, known: dict[Job, Any]) -> list[Job]:
    jobs = grid()[::4] if options.quick else grid()
    if options.only:
        jobs = [job for job in grid() if any(part in str(job) for part in options.only)]
    if options.repredict:
        return [job for job in jobs if job in known]
    return [job for job in jobs if not (options.missing and job in known)]


def _result(job: Job, texts: list[str], known: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Return a job with its prediction and what was measured, now or before (``known``) as the options say."""
    with tempfile.TemporaryDirectory() as root:
        source = Path(root) / "reviews.csv"
        write_reviews(source, job, texts)
        request = {"source": str(source), "out": f"{root}/run", "model": str(models.folder_of(job.model)),
                   "settings": job.settings, "full": _kind(job) == "full"}  # fmt: skip
        predicted = _worker("plan", request)
        measured = known["measured"] if known and options.repredict else _worker(_kind(job), request)
    if known and options.memory:
        predicted = planning_results.with_memory_of(known["predicted"], predicted)
        if not options.repredict:
            measured = planning_results.with_memory_of(known["measured"], measured)
    return {**asdict(job), "predicted": predicted, "measured": measured}


def _kind(job: Job) -> str:
    return "full" if job.method == "full" else "fit"


def _worker(what: str, request: dict[str, Any]) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "benchmarks.planning_workers", what]
    done = subprocess.run(command, input=json.dumps(request), capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{what} failed:\n{done.stderr[-3000:]}")
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**answer, "commit": machine.commit(), "date": datetime.now(UTC).isoformat(timespec="seconds")}


def _keep(path: Path, known: dict[Job, dict[str, Any]], facts: dict[str, Any]) -> None:
    results = [known[job] for job in grid() if job in known]
    planning_results.write(path, results, facts)
    path.with_suffix(".svg").write_text(planning_picture.draw(results), encoding="utf-8")


if __name__ == "__main__":
    main()
