"""What ``benchmarks.planning`` keeps: measured values, predictions, and how far apart they are.

The file keeps every job's newest measurement, so that the grid may be measured in parts, and predictions
may be made anew for what was measured before. Each half says of which commit it is.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.planning_jobs import Job

# What is promised: relative errors of the memory and of the time.
MEMORY, TIME = 0.10, 0.20
# Above this share of the processor's time for others a job's own time says nothing.
DISTURBED = 0.15
FIGURES = {"seconds": TIME, "memory_gb": MEMORY}
MEMORY_FIGURES = ("memory_gb", "stage_peaks_gb", "memory_by_term")


def read(path: Path) -> dict[Job, dict[str, Any]]:
    """Return the results of a file by job; none where there is no file."""
    if not path.exists():
        return {}
    document = json.loads(path.read_text(encoding="utf-8"))
    return {job_of(result): result for result in document["jobs"]}


def write(path: Path, results: Iterable[dict[str, Any]], facts: dict[str, Any]) -> None:
    """Write results with a summary, whole or not at all.

    Args:
        path: the file.
        results: of all jobs, in any order.
        facts: the machine.
    """
    found = list(results)
    document = {**facts, "jobs": found, "summary": summarise(found)}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def job_of(result: dict[str, Any]) -> Job:
    """Return the job that a result is of."""
    return Job(**{name: result[name] for name in ("model", "method", "profile", "budget")})


def error(result: dict[str, Any], name: str) -> float:
    """Return predicted over measured, less 1."""
    return float(result["predicted"][name] / result["measured"][name] - 1)


def counts(result: dict[str, Any], name: str) -> bool:
    """Return whether a measured figure means something: times do where the machine was left alone."""
    return name != "seconds" or result["measured"].get("others_share", 0.0) <= DISTURBED


def summarise(results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return for each figure its median and worst error, how many jobs are within what is promised, and the others."""
    summary: dict[str, Any] = {"jobs": len(results)}
    for name, allowed in FIGURES.items():
        errors = {str(job_of(each)): round(error(each, name), 3) for each in results if counts(each, name)}
        if errors:
            summary[name] = _spread(errors, allowed)
    return summary


def _spread(errors: dict[str, float], allowed: float) -> dict[str, Any]:
    ordered = sorted(errors.values(), key=abs)
    return {
        "counted": len(errors),
        "median": abs(ordered[len(ordered) // 2]),
        "worst": ordered[-1],
        f"within_{100 * allowed:.0f}": sum(abs(each) <= allowed for each in ordered),
        "missed": {name: each for name, each in errors.items() if abs(each) > allowed},
    }


def with_memory_of(known: dict[str, Any], measured: dict[str, Any]) -> dict[str, Any]:
    """Return a known measurement (or prediction) whose memory is that of another, and says so."""
    memory = {name: measured[name] for name in MEMORY_FIGURES if name in measured}
    return {**known, **memory, "memory_commit": measured["commit"], "memory_date": measured["date"]}


def line(result: dict[str, Any]) -> str:
    """Return a job's errors for the terminal."""
    parts = []
    for name in FIGURES:
        told = f"{name.split('_')[0]} {result['predicted'][name]:.2f} against {result['measured'][name]:.2f}"
        beside = "" if counts(result, name) else ", others were computing"
        parts.append(f"{told} ({100 * error(result, name):+.0f} %{beside})")
    return f"{job_of(result)!s:<50} {', '.join(parts)}"
