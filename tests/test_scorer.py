"""``Scorer``: Arrow batch in, Arrow batch out, and what Ray makes of it."""

from __future__ import annotations

import random

import pyarrow as pa
import pytest

from tests.test_cli import call
from textlora.classifier import Classifier
from textlora.errors import UsageError
from textlora.extras import RAY
from textlora.scoring import Scorer

ADDED = ["prediction", "probability", "probability_negative", "probability_positive", "truncated"]
needs_ray = pytest.mark.skipif(bool(RAY.obstacle), reason=RAY.obstacle)


@pytest.fixture(scope="module")
def scorer(toy_run):
    return Scorer(Classifier.from_pretrained(toy_run.folder, device="cpu"))


TABLE = pa.table({"id": [7, 8, 9, 10], "review": ["good film", None, "  ", "dull"]})


class TestScorer:
    @pytest.mark.parametrize("batch", [TABLE, TABLE.to_batches()[0]], ids=["table", "record batch"])
    def test_adds_columns_and_keeps_the_kind(self, scorer, batch):
        found = scorer(batch)
        assert type(found) is type(batch)
        assert found.schema.names == ["id", "review", *ADDED]
        assert found.schema == scorer.schema(batch.schema)
        expected = scorer.classifier.predict(["good film", "dull"])
        assert found.column("prediction").to_pylist() == [expected[0].label, None, None, expected[1].label]
        assert found.column("probability")[3].as_py() == pytest.approx(expected[1].probability)
        assert found.column("truncated").to_pylist() == [False, None, None, False]

    def test_batches(self, scorer):
        """As Spark's ``mapInArrow`` calls it, with an empty batch among the others."""
        empty = pa.RecordBatch.from_pylist([], schema=TABLE.schema)
        found = list(scorer.batches([*TABLE.to_batches(max_chunksize=3), empty]))
        assert [batch.num_rows for batch in found] == [3, 1, 0]
        assert pa.Table.from_batches(found).num_rows == 4

    def test_text_types(self, scorer):
        words = ["good", "bad", "good"]
        expected = scorer.predict(words)
        for column in (pa.array(words, pa.large_string()), pa.array(words).dictionary_encode()):
            assert scorer(pa.table({"review": column})).select(ADDED).to_batches()[0].equals(expected)

    def test_no_such_column(self, scorer):
        with pytest.raises(UsageError) as error:
            scorer(pa.table({"id": [1], "reviews": ["good"]}))
        assert str(error.value) == (
            "There is no column 'review' in the batch. Did you mean 'reviews'?\nColumns: id, reviews."
        )

    def test_columns_that_are_there_already(self, scorer):
        with pytest.raises(UsageError, match="The batch already has the column 'prediction'"):
            scorer(pa.table({"review": ["good"], "prediction": ["x"]}))

    def test_from_a_folder_with_another_column(self, toy_run):
        scorer = Scorer(toy_run.folder, "comment", device="cpu")
        assert scorer(pa.table({"comment": ["good"]})).num_columns == 6


@pytest.fixture(scope="module")
def cluster():
    """A cluster of two processors on this machine."""
    ray = pytest.importorskip("ray", reason="ray is not installed")
    ray.init(num_cpus=2, log_to_driver=False, include_dashboard=False)
    yield ray
    ray.shutdown()


@needs_ray
@pytest.mark.slow
class TestRay:
    def test_the_same_bytes_as_without(self, toy_run, cluster, tmp_path):
        draw, source = random.Random(2), tmp_path / "data"
        source.mkdir()
        for name in ("a", "b"):
            lines = [f"{number},{' '.join(draw.choices(['good', 'bad', 'dull'], k=5))}" for number in range(5_000)]
            (source / f"{name}.csv").write_text("\n".join(["id,review", *lines, "broken"]) + "\n")
        assert call("predict", toy_run.folder, source, "--out", tmp_path / "local.csv").code == 0
        result = call("predict", toy_run.folder, source, "--out", tmp_path / "ray.csv", "--engine", "ray")
        assert result.code == 0, result.err
        assert (tmp_path / "ray.csv").read_bytes() == (tmp_path / "local.csv").read_bytes()
        assert "2 broken lines" in result.out

    def test_workers_beyond_the_cluster(self, toy_run, cluster, tmp_path):
        (tmp_path / "in.csv").write_text("review\ngood\n")
        result = call(
            "predict",
            toy_run.folder,
            tmp_path / "in.csv",
            "--out",
            tmp_path / "o.csv",
            "--engine",
            "ray",
            "--workers",
            3,
        )
        assert result.code == 4
        assert result.err == ("error: The Ray cluster has 2 processors, and 3 workers were asked for.\n--workers 2\n")

    def test_a_scorer_in_a_pipeline_of_ones_own(self, toy_run, cluster):
        table = pa.table({"id": range(300), "review": ["good film", "bad plot", None] * 100})
        scored = cluster.data.from_arrow(table).map_batches(
            Scorer,
            fn_constructor_kwargs={"run": str(toy_run.folder), "text": "review"},
            batch_format="pyarrow",
            batch_size=100,
            compute=cluster.data.ActorPoolStrategy(size=2),
        )
        found = sorted(scored.take_all(), key=lambda row: row["id"])
        expected = Scorer(toy_run.folder, device="cpu")(table).to_pylist()
        assert [row["prediction"] for row in found] == [row["prediction"] for row in expected]
        assert [row["probability"] or 0 for row in found] == pytest.approx(
            [row["probability"] or 0 for row in expected], abs=1e-6
        )
