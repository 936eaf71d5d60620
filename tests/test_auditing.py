"""The label audit: planted errors are found, what is written can be reviewed, and a review becomes a corrected file."""

from __future__ import annotations

import csv
import json
import random
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import PredefinedSplit, cross_val_predict

import textlora
from tests.conftest import WORDS
from tests.test_cli import call
from textlora import api_audit, auditing, extras
from textlora.auditing import KINDS, load_audit
from textlora.auditing.conflicts import find_conflicts, find_outliers
from textlora.auditing.crossing import Crossing
from textlora.auditing.decisions import LabelWords
from textlora.auditing.doubting import find_doubts
from textlora.auditing.members import States, Words
from textlora.auditing.noise import estimate_errors
from textlora.auditing.representing import chosen_layers
from textlora.errors import DataError, Interrupted, ResourceError, UsageError
from textlora.reporting.audited import report_audit
from textlora.tasks import label_matrix

QUICK = {"compute.device": "cpu", "compute.precision": "fp32", "compute.tokens_per_micro_batch": 512}
GOOD, BAD = ["good", "great", "fine", "lovely", "loved"], ["bad", "dull", "awful", "boring", "hated"]
FLIPPED = 10


def sentences(count: int, seed: int = 3) -> list[tuple[str, str]]:
    """Short texts of two labels, told by some of their words."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        words = draw.choices(WORDS[:7] + WORDS[15:35], k=draw.randint(6, 20)) + draw.choices(
            GOOD if number % 2 else BAD, k=4
        )
        draw.shuffle(words)
        rows.append((" ".join(words), "positive" if number % 2 else "negative"))
    return rows


def flipped(label: str) -> str:
    return "negative" if label == "positive" else "positive"


def write(path: Path, rows: list[tuple[str, str]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("review", "sentiment"))
        writer.writerows(rows)
    return path


def planted(path: Path) -> tuple[Path, set[int]]:
    """300 texts, ten of them with the wrong label; a conflict, a misspelt label and a foreign text at the end."""
    rows = sentences(300)
    wrong = set(random.Random(1).sample(range(300), FLIPPED))
    rows = [(text, flipped(label) if number in wrong else label) for number, (text, label) in enumerate(rows)]
    rows += [
        ("The film was good, and the end was great!", "positive"),
        ("the film was good and the end was great", "negative"),
    ]
    rows += [("the music was lovely and the script was fine for you", "positve"), ("", "positive")]
    return write(path, rows), wrong


def audited(data: object, model: Path, out: Path, **options: object) -> auditing.Audit:
    return textlora.audit(
        data, base_model=str(model), out=out, assignments=QUICK | options.pop("assignments", {}), **options
    )


@pytest.fixture(scope="module")
def found(tmp_path_factory, tiny_model):
    """An audit of planted errors, and the rows where they are."""
    folder = tmp_path_factory.mktemp("audit")
    data, wrong = planted(folder / "reviews.csv")
    return audited(data, tiny_model, folder / "audit"), wrong, data


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as stream:
        return list(csv.DictReader(stream))


def reviewed(audit: auditing.Audit, path: Path, decisions: dict[str, str], **options: str) -> Path:
    """Write the review with decisions by row."""
    rows = rows_of(audit.folder / "audit.csv")
    with path.open("w", encoding=options.get("encoding", "utf-8"), newline="") as stream:
        writer = csv.DictWriter(stream, rows[0].keys(), delimiter=options.get("delimiter", ","))
        writer.writeheader()
        writer.writerows({**row, "decision": decisions.get(row["row"], "")} for row in rows)
    return path


class TestFinding:
    def test_planted_errors_are_found(self, found):
        audit, wrong, _ = found
        doubted = [int(one.row) for one in audit.suspects if one.kind == "label"]
        assert len(wrong & set(doubted[:FLIPPED])) >= 0.8 * FLIPPED  # precision of as many as were planted
        assert wrong <= set(doubted)
        assert len(doubted) <= 2 * FLIPPED

    def test_the_right_label_is_suggested(self, found):
        audit, wrong, _ = found
        for one in audit.suspects:
            if int(one.row) in wrong:
                assert one.suggested == flipped(one.label)
                assert one.probability + one.suggested_probability == pytest.approx(1)

    def test_the_worst_come_first(self, found):
        audit, _, _ = found
        kinds = [one.kind for one in audit.suspects]
        assert kinds[:3] == ["spelling", "conflict", "conflict"]
        doubted = [one.probability for one in audit.suspects if one.kind == "label"]
        assert doubted == sorted(doubted)
        assert audit.by_kind["label"] == len(doubted)

    def test_equal_texts_with_different_labels(self, found):
        audit, _, _ = found
        pair = [one for one in audit.suspects if one.kind == "conflict"]
        assert {(one.row, one.similar, one.similar_line, one.label, one.suggested) for one in pair} == {
            ("300", "301", 303, "positive", "negative"), ("301", "300", 302, "negative", "positive"),
        }  # fmt: skip

    def test_a_misspelt_label(self, found):
        audit, _, _ = found
        first = audit.suspects[0]
        assert (first.row, first.line, first.label, first.suggested) == ("302", 304, "positve", "positive")
        assert first.probability is None

    def test_every_row_is_accounted_for(self, found):
        audit, _, _ = found
        assert (audit.counts.read, audit.counts.kept) == (304, 302)
        assert audit.counts.quarantined == {"missing text": 1, "label looks like a typo of 'positive'": 1}

    def test_the_share_of_errors_is_about_right(self, found):
        audit, _, _ = found
        assert audit.errors.low <= FLIPPED / 300 <= audit.errors.high
        assert audit.accuracy > 0.9
        assert sum(audit.confidence) == 302

    def test_the_same_call_gives_the_same_audit(self, found, tiny_model, tmp_path):
        audit, _, data = found
        again = audited(data, tiny_model, tmp_path / "again")
        assert again.suspects == audit.suspects
        assert again.errors == audit.errors

    def test_working_files_are_gone(self, found):
        audit, _, _ = found
        assert {path.name for path in audit.folder.iterdir()} == {"audit.csv", "audit.html", "audit.json"}
        assert load_audit(audit.folder) == audit

    def test_a_data_frame(self, tiny_model, tmp_path):
        frame = pd.DataFrame(sentences(60), columns=["review", "sentiment"])
        frame.loc[7, "sentiment"] = flipped(frame.loc[7, "sentiment"])
        audit = audited(frame, tiny_model, tmp_path / "audit")
        assert "7" in {one.row for one in audit.suspects}
        assert audit.unit == "row"

    def test_a_text_like_no_other(self):
        generator = np.random.default_rng(0)
        states = generator.normal(size=(200, 16)).astype(np.float32) + 5
        states[17] = -states[17]
        states[[40, 41]] *= np.array([1] * 8 + [-1] * 8)  # near-duplicates: near each other, far from all others
        clusters = np.arange(200, dtype=np.int32)
        clusters[41] = 40
        assert set(find_outliers(states, clusters, seed=0).tolist()) == {17, 40, 41}

    def test_nothing_is_an_outlier_among_equals(self):
        states = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32) + 9
        assert len(find_outliers(states, np.arange(100, dtype=np.int32), seed=0)) <= 1


class TestConflicts:
    TEXTS = (
        "one fine film with a good end",
        "one fine film with a good end.",
        "one fine film with a good end!!",
        "other words",
    )

    def test_the_minority_is_suspect(self):
        truth = label_matrix([0, 1, 0, 1], 2)
        (one,) = find_conflicts(np.array([0, 0, 0, 3], np.int32), truth, self.TEXTS)
        assert (one.row, one.similar, one.labels, one.likeness, one.alone) == (1, 0, (0,), 1.0, True)

    def test_in_a_tie_all_are(self):
        truth = label_matrix([0, 1, 2, 1], 3)
        found = find_conflicts(np.array([0, 0, 0, 3], np.int32), truth, self.TEXTS)
        assert [one.row for one in found] == [0, 1, 2]
        assert not any(one.alone for one in found)

    def test_agreement_is_none(self):
        assert find_conflicts(np.array([0, 0, 0, 3], np.int32), label_matrix([1, 1, 1, 0], 2), self.TEXTS) == []


class TestCrossing:
    def make(self, task: str = "single_label") -> tuple[Crossing, Words, np.ndarray]:
        rows = sentences(120)
        words = Words.of([text for text, _ in rows])
        labels = [int(label == "positive") for _, label in rows]
        given = labels if task == "single_label" else [(label,) for label in labels]
        folds = np.random.default_rng(0).permutation(np.arange(120) % 4).astype(np.int8)
        return Crossing(label_matrix(given, 2), folds, task, 0), words, np.array(labels)

    def test_it_is_scikit_learns_cross_validation(self, monkeypatch):
        crossing, words, labels = self.make()
        monkeypatch.setattr(Words, "strengths", (4.0,))
        told = []
        ours = crossing.out_of_fold(words, lambda done, total: told.append((done, total)))
        theirs = cross_val_predict(
            LogisticRegression(C=4.0, max_iter=1000), words.rows(np.arange(120)), labels,
            cv=PredefinedSplit(crossing.folds), method="predict_proba",
        )  # fmt: skip
        np.testing.assert_allclose(ours, theirs, atol=1e-6)
        assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]

    def test_few_rows_are_drawn_where_there_are_many(self, monkeypatch):
        from textlora.auditing import crossing as module

        monkeypatch.setattr(module, "MOST_TRAINED", 40)
        crossing, words, labels = self.make()
        found = crossing.out_of_fold(words, lambda *_: None)
        assert (found.argmax(axis=1) == labels).mean() > 0.8

    def test_each_label_is_a_question_of_its_own(self):
        crossing, words, labels = self.make("multi_label")
        found = crossing.out_of_fold(words, lambda *_: None)
        assert ((found[:, 1] > 0.5) == labels).mean() > 0.8
        np.testing.assert_allclose(found.sum(axis=1), 1, atol=0.2)

    def test_pooling_trusts_who_knows(self):
        generator = np.random.default_rng(0)
        labels = generator.integers(0, 3, 2000)
        crossing = Crossing(label_matrix(labels.tolist(), 3), np.zeros(2000, np.int8), "single_label", 0)
        sure = np.where(crossing.truth, 0.7, 0.15)
        sure[:400] = np.roll(sure[:400], 1, axis=1)
        noise = generator.dirichlet(np.ones(3), 2000)
        pooled, weights = crossing.pool([noise, sure])
        assert weights[0] < 0.05 < weights[1]
        np.testing.assert_allclose(pooled.sum(axis=1), 1)
        # 80 % are right, whatever the member said of itself.
        assert pooled[500].max() == pytest.approx(0.8, abs=0.02)

    def test_layers_from_the_middle_up(self):
        assert chosen_layers(6) == (3, 4, 5, 6)
        assert chosen_layers(12) == (6, 8, 10, 12)
        assert chosen_layers(2) == (1, 2)
        assert chosen_layers(1) == (0, 1)


class TestDoubts:
    def simulated(self, share: float, rows: int = 4000) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Probabilities that are calibrated for the true labels, and labels of which a share is wrong."""
        generator = np.random.default_rng(7)
        yes = generator.beta(0.3, 0.3, rows)
        true = (generator.random(rows) < yes).astype(int)
        wrong = generator.random(rows) < share
        return label_matrix(np.where(wrong, 1 - true, true).tolist(), 2), np.stack([1 - yes, yes], axis=1), wrong

    @pytest.mark.parametrize("share", [0.0, 0.03, 0.1])
    def test_the_estimate_is_near_and_on_the_high_side(self, share):
        truth, probabilities, wrong = self.simulated(share)
        errors, rows = estimate_errors(truth, probabilities, "single_label", np.arange(4000, dtype=np.int32))
        assert rows == pytest.approx(1200, abs=2)
        assert errors.low <= wrong.mean() + 0.01
        assert wrong.mean() - 0.005 <= errors.high <= wrong.mean() + 0.035

    def test_several_labels(self):
        generator = np.random.default_rng(1)
        true = generator.random((500, 3)) < 0.4
        probabilities = np.where(true, 0.9, 0.1) + generator.normal(0, 0.02, (500, 3))
        # Surer than classifiers usually are; of others that are wrong, half would be found.
        probabilities[[3, 9]] = np.where(true[[3, 9]], 0.97, 0.03)
        truth = true.copy()
        truth[3, 1] ^= True
        truth[9, 0] ^= True
        doubts = find_doubts(truth, probabilities, "multi_label")
        assert np.flatnonzero(doubts.doubted).tolist() == [3, 9]
        assert (doubts.suggested[[3, 9]] == true[[3, 9]]).all()
        assert doubts.own[3] == pytest.approx(0.05, abs=0.05)


class TestStates:
    def test_what_is_there_is_kept(self, tmp_path):
        states = States(tmp_path, 5, 3)
        assert states.done == 0
        states.append(np.arange(6).reshape(2, 3))
        again = States(tmp_path, 5, 3)
        assert again.done == 2
        again.append(np.arange(6, 15).reshape(3, 3))
        assert again.rows(np.array([4, 1])).tolist() == [[12, 13, 14], [3, 4, 5]]
        assert again.rows(slice(None), 1).ravel().tolist() == [2, 5, 8, 11, 14]

    def test_a_file_that_is_too_short_does_not_count(self, tmp_path):
        states = States(tmp_path, 4, 3)
        states.append(np.zeros((2, 3)))
        (tmp_path / "states.bin").write_bytes(b"\0" * 20)
        assert states.done == 0


class TestCalls:
    def test_a_stopped_audit_goes_on(self, tiny_model, tmp_path, monkeypatch):
        from textlora.auditing import representing

        monkeypatch.setattr(representing, "BLOCK", 20)
        data = write(tmp_path / "reviews.csv", sentences(100))

        def stop(stage: str, done: int, *_: object) -> None:
            if stage == "hidden states" and done == 60:
                raise Interrupted("Stopped.")

        with pytest.raises(Interrupted):
            audited(data, tiny_model, tmp_path / "audit", progress=stop)
        told: list[int] = []
        done = audited(
            data, tiny_model, tmp_path / "audit",
            progress=lambda stage, rows, *_: told.append(rows) if stage == "hidden states" else None,
        )  # fmt: skip
        assert told == [80, 100]
        assert done.suspects == audited(data, tiny_model, tmp_path / "other").suspects

    def test_a_finished_audit_is_taken_over_with_its_decisions(self, found, tiny_model, tmp_path):
        audit, _, data = found
        before = (audit.folder / "audit.csv").read_bytes()
        (audit.folder / "audit.csv").write_bytes(before.replace(b"spelling", b"SPELLING"))
        try:
            assert audited(data, tiny_model, audit.folder) == audit
            assert b"SPELLING" in (audit.folder / "audit.csv").read_bytes()
        finally:
            (audit.folder / "audit.csv").write_bytes(before)

    def test_another_audit_is_not_replaced(self, found, tiny_model):
        audit, _, data = found
        with pytest.raises(UsageError) as error:
            audited(data, tiny_model, audit.folder, folds=3)
        assert str(error.value) == (
            f"{audit.folder} holds another audit, perhaps with decisions in its audit.csv, than that of {data} with these options.\n"
            "Choose another folder with --out, or replace the audit in it with --overwrite."
        )

    def test_a_label_with_too_few_texts(self, tiny_model, tmp_path):
        data = write(
            tmp_path / "reviews.csv", [*sentences(20), ("a plot", "mixed"), ("a plot!", "mixed"), ("a script", "mixed")]
        )
        with pytest.raises(DataError) as error:
            audited(data, tiny_model, tmp_path / "audit")
        assert str(error.value) == (
            f"Every label needs at least 5 different texts, one for each of 5 folds; in {data} some have fewer:\n"
            "  - the label 'mixed' has 2 different texts\n"
            "--folds 2 makes fewer folds; --labels A,B uses these labels only and sets all other rows aside."
        )

    def test_one_label(self, tiny_model, tmp_path):
        data = write(tmp_path / "reviews.csv", [(text, "positive") for text, _ in sentences(20)])
        with pytest.raises(DataError, match="has one label only, 'positive'; at least two are needed"):
            audited(data, tiny_model, tmp_path / "audit")

    def test_no_labels(self, tiny_model, tmp_path):
        data = write(tmp_path / "reviews.csv", [(text, "") for text, _ in sentences(20)])
        with pytest.raises(DataError) as error:
            audited(data, tiny_model, tmp_path / "audit")
        assert "20 of 20 rows set aside: missing label (lines 2, 3, 4, 5, 6 and 15 more)" in str(error.value)

    def test_no_file(self, tmp_path):
        with pytest.raises(DataError) as error:
            textlora.audit(tmp_path / "reviews.csv")
        assert str(error.value) == f"{tmp_path / 'reviews.csv'} does not exist.\nCheck the path and the name."

    def test_no_base_model(self, tmp_path):
        data = write(tmp_path / "reviews.csv", sentences(20))
        told: list[str] = []
        with pytest.raises(UsageError, match="no-such-folder"):
            textlora.audit(
                data, base_model=str(tmp_path / "no-such-folder"), out=tmp_path / "audit",
                progress=lambda stage, *_: told.append(stage),
            )  # fmt: skip
        assert told == []  # nothing was read in vain

    @pytest.mark.parametrize("folds", [1, 21])
    def test_impossible_folds(self, tmp_path, folds):
        with pytest.raises(UsageError) as error:
            textlora.audit(tmp_path / "x.csv", folds=folds)
        assert str(error.value) == f"There shall be {folds} folds; 2 to 20 are possible.\nUsual are --folds 5 or 10."

    def test_the_missing_package(self, tmp_path, monkeypatch):
        monkeypatch.setattr(auditing, "AUDIT", replace(extras.AUDIT, package="no_such_package"))
        with pytest.raises(ResourceError) as error:
            textlora.audit(tmp_path / "x.csv")
        assert str(error.value) == (
            "textlora audit needs cleanlab, and no_such_package is not installed.\nInstall it: pip install 'textlora[audit]'"
        )

    def test_pyproject_names_the_same_floor(self):
        from tests.conftest import ROOT

        floor = ".".join(map(str, extras.AUDIT.floor))
        assert f'audit = ["cleanlab>={floor}"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")

    def test_default_folder(self):
        assert api_audit.default_audit_folder("data/IMDB Dataset.csv") == Path("audits/imdb")


class TestReviewFile:
    def test_what_it_holds(self, found):
        audit, _, _ = found
        rows = rows_of(audit.folder / "audit.csv")
        assert len(rows) == len(audit.suspects)
        assert [row["rank"] for row in rows[:3]] == ["1", "2", "3"]
        assert {row["decision"] for row in rows} == {""}
        assert {row["kind"] for row in rows} <= set(KINDS)
        one = audit.suspects[5]
        assert rows[5]["probability"] == f"{one.probability:.4f}"
        assert (rows[5]["row"], rows[5]["line"], rows[5]["text"]) == (one.row, str(one.line), one.text)
        assert (audit.folder / "audit.csv").read_bytes().startswith(b"\xef\xbb\xbf")

    def test_no_cell_is_a_formula(self, tmp_path):
        from textlora.auditing.review import write_review

        texts = ["=1+1", "+1", "-1", "@SUM(A1)", "\tx", 'a "quoted", text', "fine"]
        suspects = [
            auditing.Suspect(str(n), n, "label", "-1", "=x", 0.5, 0.5, text, "k1") for n, text in enumerate(texts)
        ]
        write_review(tmp_path / "audit.csv", suspects)
        rows = rows_of(tmp_path / "audit.csv")
        assert [row["text"] for row in rows] == [f"'{text}" for text in texts[:5]] + texts[5:]
        assert (rows[0]["label"], rows[0]["suggested"]) == ("'-1", "'=x")

    def test_the_page_escapes_what_users_wrote(self, found, tmp_path):
        audit, _, _ = found
        nasty = "<script>alert(1)</script>"
        one = replace(audit.suspects[0], text=nasty, label=nasty, suggested=nasty)
        page = report_audit(replace(audit, folder=tmp_path, suspects=(one, *audit.suspects[1:]), source=nasty))
        html = page.read_text(encoding="utf-8")
        assert "<script" not in html
        assert html.count("&lt;script&gt;alert(1)&lt;/script&gt;") >= 4

    def test_the_page_tells_the_story(self, found):
        audit, _, _ = found
        html = (audit.folder / "audit.html").read_text(encoding="utf-8")
        assert f'<p class="score">{len(audit.suspects)}</p>' in html
        assert audit.told.split(",")[0] in html
        assert html.count("<svg") == 1


class TestApplying:
    def decisions(self, audit: auditing.Audit, wrong: set[int]) -> dict[str, str]:
        found = {one.row: one.suggested for one in audit.suspects if one.kind == "label" and int(one.row) in wrong}
        return found | {"300": "keep", "301": "drop", "302": "Positive"}

    def test_the_corrected_copy(self, found, tmp_path):
        audit, wrong, data = found
        decisions = self.decisions(audit, wrong)
        review = reviewed(audit, tmp_path / "reviewed.csv", decisions)
        done = textlora.apply_review(data, review, tmp_path / "clean.csv")
        before, after = (
            data.read_text(encoding="utf-8").splitlines(),
            (tmp_path / "clean.csv").read_text(encoding="utf-8").splitlines(),
        )
        assert len(after) == len(before) - 1
        right = [label for _, label in sentences(300)]
        assert [line.rsplit(",", 1)[1] for line in after[1:301]] == right
        assert after[302] == before[303].replace("positve", "positive")
        assert (done.rows, done.dropped, done.confirmed) == (303, 1, 1)
        assert sum(done.changed.values()) == len(wrong) + 1
        assert done.changed["positve -> positive"] == 1
        assert done.undecided == len(audit.suspects) - len(decisions)

    def test_as_a_spreadsheet_saves_it(self, found, tmp_path):
        """In another order, with semicolons, in Windows' encoding."""
        audit, wrong, data = found
        review = reviewed(audit, tmp_path / "r.csv", self.decisions(audit, wrong), encoding="cp1252", delimiter=";")
        lines = review.read_bytes().splitlines(keepends=True)
        review.write_bytes(b"".join([lines[0], *reversed(lines[1:])]))
        assert textlora.apply_review(data, review, tmp_path / "clean.csv").dropped == 1

    def test_all_problems_at_once(self, found, tmp_path):
        audit, _, data = found
        review = reviewed(audit, tmp_path / "reviewed.csv", {"300": "Negativ", "301": "maybe"})
        first, second, end = self.line(review, "300"), self.line(review, "301"), len(audit.suspects) + 2
        with review.open("a", encoding="utf-8", newline="") as stream:
            stream.write(review.read_text(encoding="utf-8").splitlines()[second - 1] + "\r\n")
            stream.write("99,keep,label,positive,negative,0.1,0.9,some text,,12345,7,kabc\r\n")
        with pytest.raises(UsageError) as error:
            textlora.apply_review(data, review, tmp_path / "clean.csv")
        expected = "expected keep, drop or a label ('negative', 'positive')."
        unknown = {first: f"'Negativ', {expected} Did you mean 'negative'?", second: f"'maybe', {expected}"}
        assert error.value.message == f"{review} cannot be applied to {data}:"
        assert error.value.problems == (
            f"line {end + 1}: the row '12345' is not in the source",
            f"line {end}: row 301 is there already (line {second})",
            *(f"line {line}: the decision is {told}" for line, told in sorted(unknown.items())),
            f"line {end}: the decision is {unknown[second]}",
        )
        assert error.value.hint == "Mend the review; nothing was written."
        assert not (tmp_path / "clean.csv").exists()

    def line(self, review: Path, row: str) -> int:
        return 2 + next(place for place, one in enumerate(rows_of(review)) if one["row"] == row)

    def test_a_foreign_file(self, found, tmp_path):
        audit, _, _ = found
        other = write(tmp_path / "other.csv", sentences(400, seed=9))
        review = reviewed(audit, tmp_path / "reviewed.csv", {})
        with pytest.raises(UsageError) as error:
            textlora.apply_review(other, review, tmp_path / "clean.csv")
        assert str(error.value) == (
            f"{review} was not made from {other}: none of its {len(audit.suspects)} rows is there with the same text and label.\n"
            "Name the file that was audited, with the same --text, --label and --set options."
        )

    def test_a_file_that_has_changed_since(self, found, tmp_path):
        audit, wrong, data = found
        row = min(wrong)
        lines = data.read_text(encoding="utf-8").splitlines()
        text, _, label = lines[row + 1].rpartition(",")
        lines[row + 1] = f"{text},{flipped(label)}"
        changed = tmp_path / "changed.csv"
        changed.write_text("\n".join(lines), encoding="utf-8")
        review = reviewed(audit, tmp_path / "reviewed.csv", {})
        with pytest.raises(UsageError) as error:
            textlora.apply_review(changed, review, tmp_path / "clean.csv")
        assert error.value.problems == (
            f"line {self.line(review, str(row))}: row {row} (line {row + 2}) has the label {flipped(label)!r} in the source, not {label!r}",
        )

    def test_no_reviewed_file(self, found, tmp_path):
        _, _, data = found
        with pytest.raises(UsageError) as error:
            textlora.apply_review(data, data, tmp_path / "clean.csv")
        assert str(error.value) == (
            f"{data} is no reviewed audit: it has no column 'row', 'label', 'decision', 'key'.\n"
            "Take the audit.csv that `textlora audit` wrote; other columns and rows may be deleted, these are needed."
        )

    def test_never_over_a_file_in_use(self, found, tmp_path):
        audit, _, data = found
        review = reviewed(audit, tmp_path / "reviewed.csv", {})
        for path, what in ((data, "the audited file"), (review, "the reviewed file")):
            with pytest.raises(UsageError) as error:
                textlora.apply_review(data, review, path)
            assert str(error.value) == f"{path} is {what} itself, which stays as it is.\nName another file with --out."

    def test_the_format_stays(self, found, tmp_path):
        audit, _, data = found
        review = reviewed(audit, tmp_path / "reviewed.csv", {})
        with pytest.raises(UsageError) as error:
            textlora.apply_review(data, review, tmp_path / "clean.parquet")
        assert str(error.value) == (
            f"clean.parquet ends in '.parquet', but the copy keeps the format of {data}.\nName a file that ends in .csv."
        )

    @pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
    def test_labels_keep_their_type(self, tiny_model, tmp_path, suffix):
        rows = [
            {"text": text, "label": int(label == "positive"), "n": n} for n, (text, label) in enumerate(sentences(60))
        ]
        rows[7]["label"] = 0
        data = tmp_path / f"data.{suffix}"
        if suffix == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), data)
        else:
            data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        audit = audited(data, tiny_model, tmp_path / "audit")
        assert "7" in {one.row for one in audit.suspects}
        review = reviewed(audit, tmp_path / "reviewed.csv", {"7": "1"})
        done = textlora.apply_review(data, review, tmp_path / f"clean.{suffix}")
        assert done.changed == {"0 -> 1": 1}
        if suffix == "parquet":
            assert pq.read_table(tmp_path / "clean.parquet").to_pylist() == [
                {**row, "label": 1} if row["n"] == 7 else row for row in rows
            ]
        else:
            lines = (tmp_path / "clean.jsonl").read_text(encoding="utf-8").splitlines()
            assert [json.loads(line) for line in lines] == [
                {**row, "label": 1} if row["n"] == 7 else row for row in rows
            ]


class TestSeveralLabels:
    def rows(self) -> list[dict[str, object]]:
        """Texts that are about music, the script, both or neither."""
        draw = random.Random(5)
        rows = []
        for number in range(160):
            labels = [name for name, bit in (("music", 1), ("script", 2)) if number & bit]
            words = draw.choices(WORDS[:4] + WORDS[15:25], k=10)
            words += [name for name in labels for _ in range(3)]
            draw.shuffle(words)
            rows.append({"text": " ".join(words), "labels": labels})
        return rows

    def test_from_audit_to_corrected_file(self, tiny_model, tmp_path):
        rows = self.rows()
        true = rows[42]["labels"]
        rows[42] = {**rows[42], "labels": [*true, "music"] if "music" not in true else []}
        data = tmp_path / "data.jsonl"
        data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        audit = audited(data, tiny_model, tmp_path / "audit")
        assert audit.task == "multi_label"
        first = next(one for one in audit.suspects if one.row == "42")
        assert first.suggested == ("|".join(true) or "(none)")
        review = reviewed(audit, tmp_path / "reviewed.csv", {"42": first.suggested})
        textlora.apply_review(data, review, tmp_path / "clean.jsonl")
        lines = (tmp_path / "clean.jsonl").read_text(encoding="utf-8").splitlines()
        assert json.loads(lines[42])["labels"] == true
        assert lines[:42] + lines[43:] == [json.dumps(row) for place, row in enumerate(rows) if place != 42]


class TestLabelWords:
    def test_capitals_do_not_count(self):
        words = LabelWords(["Positive", "negative"])
        assert words.decide(" NEGATIVE ") == ("negative",)
        assert words.decide("Keep") == "keep"
        assert words.decide("neutral") is None

    def test_a_label_may_be_called_keep(self):
        words = LabelWords(["keep", "sell"])
        assert words.decide("keep") == ("keep",)
        assert words.decide("(keep)") == "keep"
        assert (words.word("keep"), words.word("drop")) == ("(keep)", "drop")

    def test_names_that_differ_in_capitals_only(self):
        words = LabelWords(["IT", "it"])
        assert words.decide("it") == ("it",)
        assert words.decide("IT") == ("IT",)

    def test_several(self):
        words = LabelWords(["a|b", "c"], several=True)
        assert words.show(["a|b", "c"]) == "a|b;c"
        assert words.decide("c;a|b") == ("a|b", "c")
        assert words.decide("(none)") == ()
        assert words.decide("c;d") is None


class TestCommand:
    def test_from_the_file_to_the_corrected_file(self, tiny_model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        data, _ = planted(tmp_path / "reviews.csv")
        options = [option for name, value in QUICK.items() for option in ("--set", f"{name}={value}")]
        result = call("audit", "reviews.csv", "--base-model", tiny_model, *options)
        assert result.code == 0, result.err
        assert "304 rows read = 302 audited + 2 set aside" in result.out
        assert f"     1  {KINDS['spelling']}" in result.out
        assert "textlora audit reviews.csv --apply audits/reviews/audit.csv --out reviews.cleaned.csv" in result.out
        done = call("audit", "reviews.csv", "--apply", "audits/reviews/audit.csv", "--out", "reviews.cleaned.csv")
        assert done.code == 0, done.err
        assert "0 labels changed, 0 rows dropped, 0 kept as they are" in done.out
        assert Path("reviews.cleaned.csv").read_bytes() == data.read_bytes()

    def test_the_next_command_reads_the_file_in_the_same_way(self, tiny_model, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        with Path("two columns.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(("text", "sentiment", "tone"))
            writer.writerows((f"<b>{text}</b>", "x", label) for text, label in sentences(60))
        audit = audited(
            "two columns.csv", tiny_model, Path("audit"), label="tone", labels=["negative", "positive"],
            assignments={"data.clean_html": False},
        )  # fmt: skip
        assert audit.next_command == (
            "textlora audit 'two columns.csv' --label tone --labels negative,positive --set data.clean_html=false "
            "--apply audit/audit.csv --out 'two columns.cleaned.csv'"
        )
        done = call(*shlex.split(audit.next_command)[1:])
        assert done.code == 0, done.err

    def test_json(self, found, tiny_model):
        audit, _, data = found
        options = [option for name, value in QUICK.items() for option in ("--set", f"{name}={value}")]
        result = call("audit", data, "--base-model", tiny_model, "--out", audit.folder, *options, "--json")
        assert result.code == 0, result.err
        assert len(json.loads(result.out)["audit"]["suspects"]) == len(audit.suspects)

    def test_applying_needs_a_name(self):
        result = call("audit", "reviews.csv", "--apply", "audit.csv")
        assert result.code == 2
        assert result.err == (
            "error: --apply needs the name of the corrected file.\nFor instance: --out reviews.cleaned.csv\n"
        )

    def test_applying_trains_nothing(self):
        result = call("audit", "reviews.csv", "--apply", "audit.csv", "--out", "x.csv", "--folds", "3", "--overwrite")
        assert result.code == 2
        assert result.err == (
            "error: --apply trains nothing and replaces no audit; it does not go with --folds and --overwrite.\n"
            "Leave these options out.\n"
        )
