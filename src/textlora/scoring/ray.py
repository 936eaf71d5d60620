"""Scoring on a Ray cluster: one task reads texts, a pool of actors with a classifier each predicts them.

The process that was called reads the files too and writes the output, block by block as it comes back, so that all
else (columns, quarantine, shards, going on after a kill) is as without Ray. Only texts and predictions travel.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from textlora.errors import ResourceError, TextloraError, UsageError
from textlora.extras import RAY
from textlora.scoring.blocks import Block, all_blocks
from textlora.scoring.scorer import Scorer
from textlora.scoring.sources import Asked, Source, find_targets

WORKERS = 2
TEXTS, PREDICTIONS = "texts", "predictions"


@dataclass(frozen=True, slots=True)
class RayPool:
    """The engine of ``score_files`` that runs on Ray Data.

    Attributes:
        run: run folder or bundle; every node must see it under this path.
        workers: actors, each with a classifier and a processor (and a GPU where the cluster has enough of them).
    """

    run: str | Path
    workers: int = WORKERS

    def __call__(
        self, asked: Asked, sources: Sequence[Source], scorer: Scorer
    ) -> Callable[[Iterator[Block], int], Iterator[tuple[Block, Any]]]:
        """Return the engine for one job.

        Raises:
            ResourceError: Ray is not installed, or the cluster has fewer processors than workers.
        """
        if RAY.obstacle:
            raise ResourceError(f"{RAY.obstacle}, which --engine ray needs.", hint=f"{RAY.command}")
        _connect(self.workers)
        fingerprint = scorer.classifier.fingerprint

        def engine(blocks: Iterator[Block], start: int) -> Iterator[tuple[Block, Any]]:
            with _translated():
                dataset = _texts(asked, scorer.columns.names, start)
                done = _predicted(dataset, str(Path(self.run).resolve()), fingerprint, self.workers)
                for block, predictions in zip(blocks, done, strict=True):
                    if predictions.num_rows != len(block.rows):
                        raise UsageError(
                            f"{sources[block.source].table.name} was changed while it was scored.",
                            hint="Run the same command again.",
                        )
                    yield block, predictions

        return engine


def _connect(workers: int) -> None:
    # Said before Ray starts: what its parts write to each other is not for users, and nothing is sent home.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray
    import ray.data

    if not ray.is_initialized():
        # A cluster that is there is joined ($RAY_ADDRESS, or `ray start` on this machine); else one starts here.
        ray.init(log_to_driver=False, logging_level=logging.ERROR)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    cores = int(ray.cluster_resources().get("CPU", 0))
    if cores < workers:
        raise ResourceError(
            f"The Ray cluster has {cores} processors, and {workers} workers were asked for.",
            hint=f"--workers {max(1, cores)}",
        )


@contextmanager
def _translated() -> Iterator[None]:
    """Turn what went wrong on the cluster into an error of ours."""
    import ray

    try:
        yield
    except ray.exceptions.RayError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, TextloraError):
            raise cause from error
        first = (str(cause or error).strip().splitlines() or [""])[0]
        raise ResourceError(
            f"Ray could not go on: {type(cause or error).__name__}: {first}",
            hint="Run the same command again to go on; Ray's own logs say more (/tmp/ray/session_latest/logs).",
        ) from error


def _texts(asked: Asked, added: Sequence[str], start: int) -> Any:
    """Return a Ray data set of one row for each block from number ``start`` on: the list of its texts."""
    import ray
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    def read() -> Iterator[Any]:
        sources = [source for target in find_targets(asked, added) for source in target.sources]
        for block in islice(all_blocks(sources), start, None):
            yield _row(TEXTS, _texts_of(block, sources[block.source]))

    class Texts(Datasource):  # type: ignore[misc]
        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, *_: Any, **__: Any) -> list[Any]:
            unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(read, unknown)]

    # The files are where the command runs, and reading takes next to nothing beside prediction.
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    dataset = ray.data.read_datasource(Texts(), num_cpus=0, label_selector=here, override_num_blocks=1)
    dataset.context.execution_options.preserve_order = True
    # Every row is a block of its own in Ray too, and a piece of work.
    dataset.context.target_max_block_size = 1
    dataset.context.enable_progress_bars = False
    return dataset


def _predicted(dataset: Any, run: str, fingerprint: str, workers: int) -> Iterator[Any]:
    """Yield the predictions of each row of texts, a record batch, in order."""
    import ray

    gpus = 1 if ray.cluster_resources().get("GPU", 0) >= workers else 0
    done = dataset.map_batches(
        BlockScorer,
        fn_constructor_kwargs={"run": run, "fingerprint": fingerprint},
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(size=workers),
        num_cpus=1,
        num_gpus=gpus,
        zero_copy_batch=True,
    )
    for batch in done.iter_batches(batch_size=1, batch_format="pyarrow"):
        yield _content(batch, PREDICTIONS)


class BlockScorer:
    """Predicts blocks of texts, in an actor.

    Args:
        run: run folder or bundle.
        fingerprint: of the classifier that is expected in it.

    Raises:
        UsageError: there is another classifier in it.
    """

    def __init__(self, run: str, fingerprint: str) -> None:
        self._scorer = Scorer(run)
        if self._scorer.classifier.fingerprint != fingerprint:
            raise UsageError(
                f"A worker found another classifier in {run}.",
                hint="Every node must see the same run folder under the same path.",
            )

    def __call__(self, batch: Any) -> Any:
        """Return one row, the list of predictions, for one row, the list of texts."""
        import pyarrow as pa

        texts = batch.column(TEXTS).combine_chunks().flatten().to_pylist()
        found = self._scorer.predict(texts)
        return _row(PREDICTIONS, pa.StructArray.from_arrays(found.columns, fields=list(found.schema)))


def _row(name: str, values: Any) -> Any:
    """Return a table of one row that holds a list of all values (N,)."""
    import pyarrow as pa

    return pa.table({name: pa.LargeListArray.from_arrays([0, len(values)], values)})


def _content(table: Any, name: str) -> Any:
    """Return what ``_row`` put into a table, of structs, as a record batch."""
    import pyarrow as pa

    return pa.RecordBatch.from_struct_array(table.column(name).combine_chunks().flatten())


def _texts_of(block: Block, source: Source) -> Any:
    import pyarrow as pa

    return pa.array([None if cell is None else str(cell) for cell in block.cells(source)], pa.large_string())
