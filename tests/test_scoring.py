"""File to file prediction: all columns kept, predictions beside them."""

from __future__ import annotations

import csv
import datetime
import gzip
import json
import math

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from textlora.classifier import Classifier
from textlora.errors import DataError, UsageError
from textlora.scoring import added_columns, score_file

ADDED = ["prediction", "probability", "probability_negative", "probability_positive", "truncated"]
ROWS = [
    ("7", "good film, loved it", "x;y"),
    ("8", 'bad "dull" plot\nand a line break', ""),
    ("9", "", "no text"),
    ("10", "été fine\ttab", "1e5"),
]
FORMATS = ["csv", "tsv", "jsonl", "parquet"]


@pytest.fixture(scope="module")
def classifier(toy_run):
    return Classifier.from_pretrained(toy_run.folder, device="cpu")


def write(path, rows=ROWS, columns=("id", "review", "note")):
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writerows([columns, *rows])
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(records), path)
    return path


def read(path):
    """The written columns and rows; empty cells as None, figures as numbers."""
    if path.suffix in (".csv", ".tsv"):
        with path.open(encoding="utf-8", newline="") as stream:
            columns, *rows = csv.reader(stream, delimiter="\t" if path.suffix == ".tsv" else ",")
        figures = [columns.index(name) for name in columns if name.startswith("probability")]
        rows = [[float(v) if i in figures and v else v or None for i, v in enumerate(row)] for row in rows]
        rows = [[{"True": True, "False": False}.get(v, v) if v else v for v in row] for row in rows]
    elif path.suffix == ".jsonl":
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        columns, rows = list(records[0]), [[v if v != "" else None for v in record.values()] for record in records]
        assert all(list(record) == columns for record in records)
    else:
        table = pq.read_table(path)
        columns, rows = (
            table.column_names,
            [[v if v != "" else None for v in row.values()] for row in table.to_pylist()],
        )
    return columns, rows


class TestFormats:
    @pytest.mark.parametrize("source", FORMATS)
    @pytest.mark.parametrize("target", FORMATS)
    def test_every_format_to_every_other(self, classifier, tmp_path, source, target):
        out = tmp_path / f"out.{target}"
        scored = score_file(classifier, write(tmp_path / f"in.{source}"), out)
        columns, rows = read(out)
        assert columns == ["id", "review", "note", *ADDED]
        assert [row[:3] for row in rows] == [[cell or None for cell in row] for row in ROWS]
        expected = classifier.predict([row[1] for row in ROWS])
        for index in (0, 1, 3):
            assert rows[index][3] == expected[index].label
            assert rows[index][4] == pytest.approx(expected[index].probability, abs=1e-6)
            assert rows[index][5:-1] == pytest.approx(list(expected[index].probabilities.values()), abs=1e-6)
            assert rows[index][-1] is expected[index].truncated is False
        assert rows[2][3:] == [None] * 5
        assert (scored.scored, scored.without_text, scored.quarantined, scored.truncated) == (3, 1, 0, 0)
        assert (scored.out, scored.text_column, scored.quarantine) == (out, "review", None)
        assert sorted(path.name for path in tmp_path.iterdir()) == [f"in.{source}", f"out.{target}"]

    @pytest.mark.parametrize("source", FORMATS)
    def test_compressed_sources(self, classifier, tmp_path, source):
        plain = write(tmp_path / f"in.{source}")
        packed = tmp_path / f"in.{source}.gz"
        packed.write_bytes(gzip.compress(plain.read_bytes()))
        score_file(classifier, plain, tmp_path / "plain.parquet")
        score_file(classifier, packed, tmp_path / "packed.parquet")
        assert read(tmp_path / "packed.parquet") == read(tmp_path / "plain.parquet")

    def test_parquet_keeps_its_types(self, classifier, tmp_path):
        table = pa.table(
            {
                "day": pa.array([datetime.date(2024, 1, 2), None]),
                "text": pa.array(["good", "bad"]),
                "count": pa.array([1, 2], type=pa.int16()),
                "tags": pa.array([["a", "b"], []], type=pa.list_(pa.string())),
                "kind": pa.array(["x", "y"]).dictionary_encode(),
            }
        )
        pq.write_table(table, tmp_path / "in.parquet")
        score_file(classifier, tmp_path / "in.parquet", tmp_path / "out.parquet", text="text")
        found = pq.read_table(tmp_path / "out.parquet")
        assert found.select(table.column_names).to_pylist() == table.to_pylist()
        assert [found.schema.field(name).type for name in table.column_names[:4]] == [
            table.schema.field(name).type for name in table.column_names[:4]
        ]
        assert [found.schema.field(name).type for name in ADDED] == [pa.string(), *[pa.float64()] * 3, pa.bool_()]

    def test_json_columns_get_the_type_that_all_rows_share(self, classifier, tmp_path):
        """The first rows of a column say little: they may all be missing."""
        rows = [{"text": "good", "late": None, "number": 1, "mixed": 1, "flag": True, "huge": 1}] * 3_000
        last = {"text": "bad", "late": "here", "number": 2.5, "mixed": ["x", 1], "flag": False, "huge": 2**70}
        path = tmp_path / "in.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, last]))
        score_file(classifier, path, tmp_path / "out.parquet")
        table = pq.read_table(tmp_path / "out.parquet")
        kinds = {name: str(table.schema.field(name).type) for name in last}
        assert kinds == {
            "text": "string", "late": "string", "number": "double", "mixed": "string", "flag": "bool", "huge": "string"
        }  # fmt: skip
        found = {name: table.column(name)[3_000].as_py() for name in last}
        assert found == {**last, "mixed": '["x", 1]', "huge": str(2**70)}
        assert table.column("mixed")[0].as_py() == "1"

    def test_a_column_that_is_called_like_a_probability(self, classifier, tmp_path):
        write(tmp_path / "in.csv", [("good film", "high"), ("bad plot", "low")], ("review", "probability_of_rain"))
        score_file(classifier, tmp_path / "in.csv", tmp_path / "out.parquet")
        assert pq.read_table(tmp_path / "out.parquet").column("probability_of_rain").to_pylist() == ["high", "low"]

    def test_json_has_no_nan(self, classifier, tmp_path):
        pq.write_table(pa.table({"review": ["good", "bad"], "score": [math.nan, 1.5]}), tmp_path / "in.parquet")
        score_file(classifier, tmp_path / "in.parquet", tmp_path / "out.jsonl")
        assert "NaN" not in (tmp_path / "out.jsonl").read_text()
        assert [row[1] for row in read(tmp_path / "out.jsonl")[1]] == [None, 1.5]

    @pytest.mark.parametrize("target", FORMATS)
    def test_lone_surrogates_do_not_stop_it(self, classifier, tmp_path, target):
        (tmp_path / "in.jsonl").write_text('{"review": "good \\ud800 film"}\n{"review": "bad"}\n')
        out = tmp_path / f"out.{target}"
        score_file(classifier, tmp_path / "in.jsonl", out)
        expected = "good \ud800 film" if target == "jsonl" else "good \\ud800 film"
        assert read(out)[1][0][0] == expected

    def test_more_rows_than_a_block(self, classifier, tmp_path):
        rows = [(str(index), f"good film {'bad ' * (index % 5)}", "") for index in range(4_500)]
        seen = []
        scored = score_file(
            classifier, write(tmp_path / "in.csv", rows), tmp_path / "out.csv",
            progress=lambda done, total: seen.append((done, total)),
        )  # fmt: skip
        assert scored.scored == 4_500
        assert [row[0] for row in read(tmp_path / "out.csv")[1]] == [str(index) for index in range(4_500)]
        assert seen == [(0, 4_500), (2_048, 4_500), (4_096, 4_500), (4_500, 4_500)]

    def test_long_texts_are_counted(self, classifier, tmp_path):
        rows = [("1", "good " * 100, ""), ("2", "good", "")]
        assert score_file(classifier, write(tmp_path / "in.csv", rows), tmp_path / "out.csv").truncated == 1


class TestColumns:
    def test_the_column_of_the_training_file_is_the_first_guess(self, classifier, tmp_path):
        rows = [("a long text that looks like what should be classified here", "bad plot")] * 2
        scored = score_file(classifier, write(tmp_path / "in.csv", rows, ("text", "review")), tmp_path / "out.csv")
        assert scored.text_column == "review"

    def test_it_can_be_named(self, classifier, tmp_path):
        scored = score_file(
            classifier, write(tmp_path / "in.csv"), tmp_path / "out.csv", text="note"
        )  # fmt: skip
        assert (scored.text_column, scored.scored, scored.without_text) == ("note", 3, 1)

    def test_another_column_is_found(self, classifier, tmp_path):
        rows = [("1", "good film and a fine story"), ("2", "bad film and a dull story")]
        scored = score_file(classifier, write(tmp_path / "in.csv", rows, ("id", "comment")), tmp_path / "out.csv")
        assert scored.text_column == "comment"

    def test_a_missing_column_is_named(self, classifier, tmp_path):
        source = write(tmp_path / "in.csv")
        with pytest.raises(UsageError) as error:
            score_file(classifier, source, tmp_path / "out.csv", text="reviews")
        assert error.value.message == f"There is no column 'reviews' in {source}. Did you mean 'review'?"

    def test_columns_that_are_there_already(self, classifier, tmp_path):
        source = write(tmp_path / "in.csv", [("good", "x", "y")], ("review", "probability_positive", "prediction"))
        with pytest.raises(UsageError) as error:
            score_file(classifier, source, tmp_path / "out.csv")
        assert str(error.value) == (
            f"{source} already has the columns 'prediction', 'probability_positive', "
            "which the predictions would be written to.\nRename or drop them first."
        )

    def test_added_columns(self):
        assert added_columns(("no", "so so")) == (
            "prediction", "probability", "probability_no", "probability_so so", "truncated",
        )  # fmt: skip


class TestRefusals:
    @pytest.mark.parametrize(
        ("name", "found"), [("out.xlsx", "'.xlsx'"), ("out", "'nothing'"), ("out.csv.gz", "'.gz'")]
    )
    def test_an_unknown_suffix(self, classifier, tmp_path, name, found):
        with pytest.raises(UsageError) as error:
            score_file(classifier, write(tmp_path / "in.csv"), tmp_path / name)
        assert str(error.value) == (
            f"{name} ends in {found}, expected one of .csv .tsv .jsonl .parquet.\nThe suffix of --out chooses the format."
        )

    def test_a_missing_source(self, classifier, tmp_path):
        with pytest.raises(DataError, match=r"none\.csv"):
            score_file(classifier, tmp_path / "none.csv", tmp_path / "out.csv")

    @pytest.mark.parametrize("target", FORMATS)
    def test_failing_midway_leaves_the_old_output(self, classifier, tmp_path, target):
        out = tmp_path / f"out.{target}"
        out.write_bytes(b"the old predictions")
        source = tmp_path / "in.csv"
        source.write_bytes(b"review\n" + b"good film\n" * 300_000 + b"caf\xe9\n")
        with pytest.raises(DataError, match="300002"):
            score_file(_Stub(classifier), source, out)
        assert out.read_bytes() == b"the old predictions"
        assert not list(tmp_path.glob("*.quarantine.csv"))

    def test_failing_at_once_leaves_nothing(self, classifier, tmp_path):
        (tmp_path / "in.csv").write_bytes(b"review\ngood film\ncaf\xe9\n")
        with pytest.raises(DataError, match="line 3"):
            score_file(classifier, tmp_path / "in.csv", tmp_path / "out.csv", text="review")
        assert [path.name for path in tmp_path.iterdir()] == ["in.csv"]


class _Stub:
    """The classifier, asked once for each distinct text: 300,000 equal rows need no model."""

    def __init__(self, classifier):
        self.bundle, self.label_names, self.fingerprint = classifier.bundle, classifier.label_names, "stub"
        self._answer = classifier.predict(["good film"])[0]

    def predict(self, texts):
        return [self._answer] * len(texts)


class TestBrokenLines:
    def test_they_go_to_a_file_beside_the_output(self, classifier, tmp_path):
        source = tmp_path / "in.csv"
        source.write_text("id,review\n1,good film\n2\n3,bad plot\n4,fine,extra\n5,dull\x00\n")
        scored = score_file(classifier, source, tmp_path / "out.csv")
        assert (scored.scored, scored.quarantined) == (2, 3)
        assert scored.quarantine == tmp_path / "out.csv.quarantine.csv"
        assert [row[0] for row in read(tmp_path / "out.csv")[1]] == ["1", "3"]
        with scored.quarantine.open(newline="") as stream:
            columns, *rows = csv.reader(stream)
        assert columns == ["line", "reason", "raw"]
        assert [row[:2] for row in rows] == [["3", "too few cells"], ["5", "too many cells"], ["6", "nul byte"]]

    def test_a_later_call_without_any_removes_it(self, classifier, tmp_path):
        source = tmp_path / "in.csv"
        source.write_text("id,review\n1,good film\n2\n")
        quarantine = score_file(classifier, source, tmp_path / "out.csv").quarantine
        source.write_text("id,review\n1,good film\n")
        assert score_file(classifier, source, tmp_path / "out.csv").quarantine is None
        assert not quarantine.exists()

    @pytest.mark.parametrize("target", FORMATS)
    def test_nothing_but_broken_lines_makes_an_empty_file(self, classifier, tmp_path, target):
        source = tmp_path / "in.csv"
        source.write_text("id,review\n1\n2,a,b\n")
        scored = score_file(classifier, source, tmp_path / f"out.{target}", text="review")
        assert (scored.scored, scored.without_text, scored.quarantined) == (0, 0, 2)
        assert scored.out.exists()
        if target == "parquet":
            assert pq.read_table(scored.out).column_names == ["id", "review", *ADDED]
