"""The planner's benchmark: measurements that are kept, predictions made anew, errors that count."""

from __future__ import annotations

import json

import pytest
from benchmarks import planning_picture, planning_results
from benchmarks.planning_jobs import BUDGETS, EXAMPLE, METHODS, MODELS, PROFILES, Job, grid, read_texts, write_reviews

FIRST, SECOND = grid()[0], grid()[13]


def result(job: Job, *, predicted: float = 1.0, measured: float = 1.0, others: float = 0.0) -> dict:
    return {
        "model": job.model, "method": job.method, "profile": job.profile, "budget": job.budget,
        "predicted": {"seconds": 10 * predicted, "memory_gb": predicted, "commit": "new"},
        "measured": {"seconds": 10 * measured, "memory_gb": measured, "commit": "old", "others_share": others},
    }  # fmt: skip


def test_every_pair_of_values_occurs_in_the_grid():
    jobs = grid()
    assert len(set(jobs)) == 24
    for one in (MODELS, METHODS, list(PROFILES)):
        for value in one:
            assert {job.budget for job in jobs if value in (job.model, job.method, job.profile)} == set(BUDGETS)


def test_results_are_kept_by_job(tmp_path):
    path = tmp_path / "planning.json"
    assert planning_results.read(path) == {}
    planning_results.write(path, [result(FIRST), result(SECOND, predicted=1.2)], {"processor": "Test CPU"})
    known = planning_results.read(path)
    assert list(known) == [FIRST, SECOND]
    assert known[SECOND]["measured"]["commit"] == "old"
    assert json.loads(path.read_text())["processor"] == "Test CPU"
    assert list(tmp_path.iterdir()) == [path]


def test_memory_may_be_measured_again_alone():
    again = {**result(FIRST, measured=2.0)["measured"], "commit": "newer", "date": "today", "threads": 1}
    merged = planning_results.with_memory_of(result(FIRST)["measured"], again)
    assert merged == {
        "seconds": 10.0, "memory_gb": 2.0, "commit": "old", "others_share": 0.0, "memory_commit": "newer",
        "memory_date": "today",
    }  # fmt: skip


def test_the_summary_names_what_was_missed():
    found = planning_results.summarise([result(FIRST, predicted=0.95), result(SECOND, predicted=1.3)])
    assert found["memory_gb"] == {
        "counted": 2, "median": 0.3, "worst": 0.3, "within_10": 1, "missed": {str(SECOND): 0.3},
    }  # fmt: skip
    assert found["seconds"]["within_20"] == 1


def test_times_beside_other_work_do_not_count_and_memory_does():
    disturbed = result(FIRST, measured=2.0, others=0.4)
    found = planning_results.summarise([disturbed])
    assert "seconds" not in found
    assert found["memory_gb"]["counted"] == 1
    assert planning_results.line(disturbed).endswith(
        "seconds 10.00 against 20.00 (-50 %, others were computing), memory 1.00 against 2.00 (-50 %)"
    )


@pytest.mark.parametrize("profile", PROFILES)
def test_texts_have_the_lengths_of_the_profile(tmp_path, profile):
    job = next(job for job in grid() if job.profile == profile)
    write_reviews(tmp_path / "reviews.csv", job, read_texts(EXAMPLE)[:200])
    words = [len(line.split()) for line in (tmp_path / "reviews.csv").read_text(encoding="utf-8").splitlines()[1:6]]
    low, high = PROFILES[profile] or (5, 2000)
    assert all(low <= number - 1 <= high for number in words)


def test_the_picture_has_a_mark_for_every_job():
    drawn = planning_picture.draw([result(FIRST), result(SECOND)])
    assert drawn.count("<circle") == 2  # one for the time, one for the memory
    assert drawn.count('fill-opacity="0.8"') == 4
