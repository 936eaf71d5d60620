"""``Scorer``: Arrow batch in, Arrow batch out; what files, Ray Data and Spark have in common."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from textlora.errors import UsageError, did_you_mean
from textlora.scoring.columns import Added

if TYPE_CHECKING:
    from textlora.classifier import Classifier


class Scorer:
    """Adds predictions to batches of rows, whoever cuts and hands them over.

    A scorer knows nothing of files or clusters: make one in each process that is to work, and call it
    with batch after batch.

    Args:
        run: run folder, bundle, or a loaded ``Classifier``.
        text: name of the text column; that of the training file when not given.
        device: ``cpu``, ``cuda`` or ``mps``; by default the fastest there is. Only for a folder.

    Raises:
        UsageError: there is no classifier in the folder.
        ResourceError: its base model is missing.
    """

    def __init__(self, run: Classifier | str | Path, text: str | None = None, *, device: str | None = None) -> None:
        if isinstance(run, str | Path):
            from textlora.classifier import Classifier

            run = Classifier.from_pretrained(run, device=device)
        self.classifier = run
        self.text = text or run.bundle.text_column
        self.columns = Added.of(run)

    def __call__(self, batch: Any) -> Any:
        """Return a ``pyarrow.Table`` or ``RecordBatch`` of N rows with the predictions behind its columns.

        Rows whose text is missing or blank get nulls.

        Raises:
            UsageError: no text column, or the batch has one of the added columns already.
            ResourceError: memory ran out, and smaller micro-batches did not help.
        """
        self.schema(batch.schema)
        added = self.predict(batch.column(self.text).to_pylist())
        for name, column in zip(added.schema.names, added.columns, strict=True):
            batch = batch.append_column(name, column)
        return batch

    def batches(self, batches: Iterable[Any]) -> Iterator[Any]:
        """Yield each record batch with its predictions, as Spark's ``mapInArrow`` asks for."""
        for batch in batches:
            yield self(batch)

    def schema(self, inputs: Any) -> Any:
        """Return the Arrow schema of what comes out, given that of what goes in.

        Raises:
            UsageError: no text column, or one of the added columns is there already.
        """
        import pyarrow as pa

        if self.text not in inputs.names:
            raise UsageError(
                f"There is no column {self.text!r} in the batch.{did_you_mean(self.text, inputs.names)}",
                hint=f"Columns: {', '.join(inputs.names)}.",
            )
        check_added("The batch", inputs.names, self.columns.names)
        return pa.schema([*inputs, *self.columns.schema])

    def predict(self, texts: Sequence[Any]) -> Any:
        """Return the added columns alone, an Arrow record batch, for N cells of a text column."""
        cells = [None if text is None else str(text) for text in texts]
        present = [index for index, text in enumerate(cells) if text is not None and text.strip()]
        found = self.classifier.predict([str(cells[index]) for index in present])
        by_row = dict(zip(present, found, strict=True))
        return self.columns.batch([by_row.get(index) for index in range(len(cells))])


def check_added(where: str, columns: Sequence[str], added: Sequence[str]) -> None:
    """Refuse a table that has one of the added columns.

    Raises:
        UsageError: it has.
    """
    taken = [name for name in added if name in columns]
    if taken:
        raise UsageError(
            f"{where} already has the column{'s' if len(taken) > 1 else ''} {', '.join(map(repr, taken))}, which the predictions would be written to.",
            hint="Rename or drop them first.",
        )
