"""Several files: folders, globs, one output for all or one for each."""

from __future__ import annotations

import csv
import gzip
import json
import lzma

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.test_cli import call
from textlora.classifier import Classifier
from textlora.errors import DataError, TextloraWarning, UsageError
from textlora.scoring import blocks, course, score_files

ADDED = ["prediction", "probability", "probability_negative", "probability_positive", "truncated"]


@pytest.fixture(scope="module")
def classifier(toy_run):
    return Classifier.from_pretrained(toy_run.folder, device="cpu")


@pytest.fixture
def data(tmp_path):
    """A folder with four files of two rows each, and what does not belong to the data."""
    folder = tmp_path / "data"
    (folder / "2024").mkdir(parents=True)
    (folder / "b.csv").write_text("id,review\n3,good film\n4,bad plot\n")
    (folder / "a.csv.gz").write_bytes(gzip.compress(b"review;id\ndull story;1\nlovely;2\n"))
    (folder / "2024" / "c.tsv.xz").write_bytes(lzma.compress(b"id\treview\n5\tawful\n6\n7\tfine\n"))
    pq.write_table(pa.table({"id": ["8", "9"], "review": ["boring", None]}), folder / "d.parquet")
    (folder / ".hidden.csv").write_text("id,review\n0,hidden\n")
    (folder / "notes.md").write_text("no data")
    (folder / "run").mkdir()
    (folder / "run" / "dataset.json").write_text("{}")
    (folder / "run" / "train.csv").write_text("id,review\n0,a run folder\n")
    return folder


def rows(path, delimiter=","):
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream, delimiter=delimiter))


class TestOneOutput:
    def test_a_folder(self, classifier, data, tmp_path):
        out = tmp_path / "out.csv"
        (scored,) = score_files(classifier, [data], out)
        found = rows(out)
        assert list(found[0]) == ["id", "review", "source_file", "source_row", *ADDED]
        assert [(row["id"], row["source_file"], row["source_row"]) for row in found] == [
            ("5", f"{data}/2024/c.tsv.xz", "0"), ("7", f"{data}/2024/c.tsv.xz", "1"),
            ("1", f"{data}/a.csv.gz", "0"), ("2", f"{data}/a.csv.gz", "1"),
            ("3", f"{data}/b.csv", "0"), ("4", f"{data}/b.csv", "1"),
            ("8", f"{data}/d.parquet", "0"), ("9", f"{data}/d.parquet", "1"),
        ]  # fmt: skip
        texts = [row["review"] for row in found[:-1]]
        assert [row["prediction"] for row in found[:-1]] == [answer.label for answer in classifier.predict(texts)]
        assert (scored.sources, scored.scored, scored.without_text, scored.quarantined) == (4, 7, 1, 1)
        assert sum(scored.labels.values()) == 7
        assert rows(scored.quarantine) == [
            {"source_file": f"{data}/2024/c.tsv.xz", "line": "3", "reason": "too few cells", "raw": "6"}
        ]

    def test_globs_and_files_each_once(self, classifier, data, tmp_path):
        given = [f"{data}/*.csv*", data / "b.csv", f"{data}/**/*.xz"]
        (scored,) = score_files(classifier, given, tmp_path / "out.jsonl")
        found = [json.loads(line) for line in scored.out.read_text().splitlines()]
        assert [(row["id"], row["source_row"]) for row in found] == [
            ("1", 0), ("2", 1), ("3", 0), ("4", 1), ("5", 0), ("7", 1),
        ]  # fmt: skip
        assert scored.sources == 3

    def test_its_own_output_in_the_folder_is_no_source(self, classifier, data):
        out = data / "out.csv"
        score_files(classifier, [data], out)
        first = out.read_bytes()
        assert (data / "out.csv.quarantine.csv").exists()
        score_files(classifier, [data], out)
        assert out.read_bytes() == first

    def test_types_that_files_share(self, classifier, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"review": "good", "stars": 1, "none": null, "mixed": 1}\n')
        (tmp_path / "b.jsonl").write_text('{"review": "bad", "stars": 2.5, "extra": true, "mixed": "x"}\n')
        (scored,) = score_files(classifier, [f"{tmp_path}/*.jsonl"], tmp_path / "out.parquet")
        table = pq.read_table(scored.out)
        kinds = {name: str(table.schema.field(name).type) for name in table.column_names[:5]}
        assert kinds == {"review": "string", "stars": "double", "none": "string", "mixed": "string", "extra": "bool"}
        assert table.column("extra").to_pylist() == [None, True]
        assert table.column("mixed").to_pylist() == ["1", "x"]
        assert table.column("source_row").to_pylist() == [0, 0]

    def test_columns_that_differ(self, classifier, tmp_path):
        (tmp_path / "a.csv").write_text("id,review\n1,good\n")
        (tmp_path / "b.csv").write_text("id,review,stars\n1,good,5\n")
        (tmp_path / "c.csv").write_text("review\ngood\n")
        with pytest.raises(DataError) as error:
            score_files(classifier, [f"{tmp_path}/*.csv"], tmp_path / "out.csv")
        assert str(error.value) == (
            f"The files have different columns, and cannot become one. Those of {tmp_path}/a.csv: id, review.\n"
            f"  - {tmp_path}/b.csv has stars\n"
            f"  - {tmp_path}/c.csv lacks id\n"
            "For a file each, name a folder with / at its end: --out scored/"
        )

    def test_all_files_that_cannot_be_read_are_named(self, classifier, data, tmp_path):
        (data / "e.csv").write_text("")
        (data / "f.csv").write_text("review\n")
        with pytest.raises(DataError) as error:
            score_files(classifier, [data, tmp_path / "gone.csv"], tmp_path / "out.csv")
        assert error.value.message == "3 of the files cannot be read:"
        assert [problem.split(" ")[0] for problem in error.value.problems] == [
            f"{data}/e.csv", f"{data}/f.csv", f"{tmp_path}/gone.csv",
        ]  # fmt: skip

    @pytest.mark.parametrize(
        ("given", "message"),
        [
            ("none/*.csv", "No file matches {folder}/none/*.csv."),
            ("empty", "There are no data files in {folder}/empty."),
        ],
    )
    def test_nothing_to_read(self, classifier, tmp_path, given, message):
        (tmp_path / "empty").mkdir()
        with pytest.raises(DataError) as error:
            score_files(classifier, [f"{tmp_path}/{given}"], tmp_path / "out.csv")
        assert error.value.message == message.format(folder=tmp_path)

    def test_one_text_column_for_all(self, classifier, tmp_path):
        """The second file's own guess would be another column."""
        (tmp_path / "a.jsonl").write_text('{"comment": "good film and a fine story", "note": 1}\n')
        (tmp_path / "b.jsonl").write_text(
            '{"comment": "bad", "note": "a long text that looks like what should be classified"}\n'
        )
        (scored,) = score_files(classifier, [f"{tmp_path}/*.jsonl"], tmp_path / "out.csv")
        assert scored.text_column == "comment"
        expected = classifier.predict(["good film and a fine story", "bad"])
        assert [float(row["probability"]) for row in rows(scored.out)] == pytest.approx(
            [answer.probability for answer in expected], abs=1e-6
        )
        (tmp_path / "c.jsonl").write_text('{"note": "no comment"}\n')
        with pytest.raises(UsageError, match=r"There is no column 'comment' in .*c\.jsonl"):
            score_files(classifier, [f"{tmp_path}/*.jsonl"], tmp_path / "out.csv")

    def test_a_folder_needs_its_slash(self, classifier, data, tmp_path):
        with pytest.raises(UsageError) as error:
            score_files(classifier, [data], tmp_path / "scored")
        assert str(error.value) == (
            "scored ends in 'nothing', expected one of .csv .tsv .jsonl .parquet.\n"
            "The suffix of --out chooses the format. For a file each, name a folder with / at its end."
        )

    def test_over_itself(self, classifier, data):
        with pytest.raises(UsageError) as error:
            score_files(classifier, [data / "b.csv"], data / "b.csv")
        assert str(error.value) == (
            f"{data / 'b.csv'} would be replaced by its own predictions.\nChoose another --out."
        )

    def test_a_column_that_would_say_where_rows_came_from(self, classifier, tmp_path):
        (tmp_path / "a.csv").write_text("source_row,review\n1,good\n")
        (scored,) = score_files(classifier, [tmp_path / "a.csv"], tmp_path / "out.csv")
        assert rows(scored.out)[0]["source_row"] == "1"
        scored.out.unlink()
        with pytest.raises(UsageError, match="already has the column 'source_row'"):
            score_files(classifier, [tmp_path], tmp_path / "out.csv")


class TestAFileEach:
    def test_names_and_formats_stay(self, classifier, data, tmp_path):
        found = score_files(classifier, [data], f"{tmp_path}/scored/")
        out = tmp_path / "scored"
        assert [scored.out for scored in found] == [
            out / "2024" / "c.tsv", out / "a.csv", out / "b.csv", out / "d.parquet",
        ]  # fmt: skip
        assert [row["id"] for row in rows(out / "2024" / "c.tsv", "\t")] == ["5", "7"]
        assert list(rows(out / "a.csv")[0]) == ["review", "id", *ADDED]
        assert pq.read_table(out / "d.parquet").column("id").to_pylist() == ["8", "9"]
        assert sorted(path.name for path in out.rglob("*") if path.is_file()) == [
            "a.csv", "b.csv", "c.tsv", "c.tsv.quarantine.csv", "d.parquet",
        ]  # fmt: skip

    def test_going_on_after_a_failure(self, classifier, data, tmp_path, monkeypatch):
        """What is whole appears at once; the next call takes it over and mends the rest."""
        monkeypatch.setattr(blocks, "ROWS", 1)
        out, whole = tmp_path / "scored", tmp_path / "whole"
        out.mkdir()
        monkeypatch.setattr(course, "COUNTED", 0)  # else the broken byte is found before the work begins
        good = (data / "b.csv").read_bytes()
        # Beyond what finding the delimiter and the first piece of the file would meet.
        broken = b"4,bad\n" * 210 + b"4," + b"bad plot " * 150_000 + b"\nx,caf\xe9\n"
        (data / "b.csv").write_bytes(b"id,review\n3,good film\n" + broken)
        with pytest.raises(DataError, match=r"b\.csv is not UTF-8"):
            score_files(classifier, [f"{data}/*.csv*"], out)
        assert [path.name for path in out.iterdir() if not path.name.startswith(".")] == ["a.csv"]
        (data / "b.csv").write_bytes(good)
        with pytest.warns(TextloraWarning, match="3 rows of it still count"):
            found = score_files(classifier, [f"{data}/*.csv*"], out)
        assert [scored.resumed for scored in found] == [2, 1]
        score_files(classifier, [f"{data}/*.csv*"], f"{whole}/")
        for name in ("a.csv", "b.csv"):
            assert (out / name).read_bytes() == (whole / name).read_bytes()
        assert not [path for path in out.iterdir() if path.name.startswith(".")]

    def test_two_files_of_one_name(self, classifier, tmp_path):
        (tmp_path / "a.csv").write_text("id,review\n1,good\n")
        (tmp_path / "a.csv.gz").write_bytes(gzip.compress(b"id,review\n1,good\n"))
        with pytest.raises(UsageError) as error:
            score_files(classifier, [tmp_path], f"{tmp_path}/out/")
        assert error.value.problems == (f"{tmp_path}/out/a.csv: {tmp_path}/a.csv, {tmp_path}/a.csv.gz",)


class TestProgress:
    def test_the_total_is_estimated_from_bytes(self, classifier, tmp_path, monkeypatch):
        """Large files are not counted first; the estimate is near from the first block on, and right at the end."""
        monkeypatch.setattr(course, "COUNTED", 0)
        for name in ("a", "b"):
            (tmp_path / f"{name}.csv").write_text("note,review\n" + f"{'x' * 500},good\n" * 6_000)
        told = []
        score_files(classifier, [f"{tmp_path}/*.csv"], tmp_path / "out.csv", progress=lambda *now: told.append(now))
        assert told[0] == ("predict", 0, 0)
        assert all(0.5 < total / 12_000 < 1.5 for _, done, total in told[1:])
        assert all(done < total for _, done, total in told[1:-1])
        assert told[-1] == ("predict", 12_000, 12_000)

    def test_blocks_hold_few_long_texts(self, classifier, tmp_path, monkeypatch):
        monkeypatch.setattr(blocks, "CHARACTERS", 1_000)
        (tmp_path / "in.csv").write_text("review\n" + f"{'good ' * 100}\n" * 9)
        told = []
        score_files(classifier, [tmp_path / "in.csv"], tmp_path / "out.csv", progress=lambda *now: told.append(now[1]))
        assert told == [0, 2, 4, 6, 8, 9]


class TestCommandLine:
    def test_a_folder(self, toy_run, data, tmp_path):
        out = tmp_path / "out.csv"
        result = call("predict", toy_run.folder, data, "--out", out)
        assert result.code == 0, result.err
        lines = result.out.splitlines()
        assert lines[0] == f"7 rows of 4 files scored (column 'review') -> {out}"
        assert lines[1].startswith("Predicted: ")
        assert lines[2:] == [
            "1 rows without a text have an empty prediction.",
            f"1 broken lines are in {out}.quarantine.csv.",
        ]
        assert len(rows(out)) == 8

    def test_a_file_each_as_json(self, toy_run, data, tmp_path):
        result = call("predict", toy_run.folder, data, "--out", f"{tmp_path}/scored/", "--json")
        found = json.loads(result.out)["scored"]
        assert [(scored["scored"], scored["quarantined"]) for scored in found] == [(2, 1), (2, 0), (2, 0), (1, 0)]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--engine", "rai"], "There is no engine 'rai'. Did you mean 'ray'?\nEngines: local, ray."),
            (
                ["--workers", "2"],
                "--workers is 2, which goes with --engine ray and is at least 1.\nThe local engine uses all cores.",
            ),
        ],
    )
    def test_wrong_options(self, toy_run, data, tmp_path, options, message):
        result = call("predict", toy_run.folder, data, "--out", tmp_path / "out.csv", *options)
        assert (result.code, result.err) == (2, f"error: {message}\n")

    def test_no_file(self, toy_run, tmp_path):
        result = call("predict", toy_run.folder, "--out", tmp_path / "out.csv")
        assert result.code == 2
        assert result.err.startswith("error: --out needs files to score.\n")

    def test_what_was_taken_over_is_said(self, toy_run, classifier, data, tmp_path, monkeypatch):
        monkeypatch.setattr(blocks, "ROWS", 1)
        out = tmp_path / "out.csv"

        def stop(stage, done, total):
            if done == 3:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            score_files(classifier, [data], out, progress=stop)
        (data / "d.parquet").unlink()
        result = call("predict", toy_run.folder, data, "--out", out)
        assert "3 of them were done by an earlier call." in result.out.splitlines()
