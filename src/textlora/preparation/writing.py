"""The files of a prepared run folder, written and read back."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from textlora import checks, storage
from textlora.errors import UsageError
from textlora.preparation.describing import dataset_fingerprint
from textlora.preparation.ledger import CELL_LIMIT, Ledger, Rejected
from textlora.types import SPLIT_NAMES, Dataset, DatasetInfo, Split


def write_dataset(folder: Path, info: DatasetInfo, splits: Mapping[str, Split], ledger: Ledger) -> Dataset:
    """Write splits, quarantine and description, each file atomically.

    Raises:
        ResourceError: a file cannot be written.
    """
    for done, (name, split) in enumerate(splits.items(), start=1):
        _write_split(folder / f"{name}.parquet", split)
        ledger.progress("write", done, len(splits))
    _write_quarantine(folder / storage.QUARANTINE, ledger.rejected)
    # Last, so that its presence says that all the others are whole.
    storage.write_noun(folder / storage.DATASET, info)
    return Dataset(folder, info, splits["train"], splits["validation"], splits["test"])


def load_dataset(folder: str | Path) -> Dataset:
    """Read what ``prepare`` wrote and check that its files belong together.

    Raises:
        UsageError: a file is missing, damaged, or from another ``prepare``.
    """
    folder = Path(folder)
    info = storage.read_noun(folder / storage.DATASET, DatasetInfo, made_by="prepare")
    splits = {name: _read_split(folder / f"{name}.parquet") for name in SPLIT_NAMES}
    if dataset_fingerprint(info.label_names, splits) != info.fingerprint:
        files = ", ".join(f"{name}.parquet" for name in SPLIT_NAMES)
        raise UsageError(
            f"{folder / storage.DATASET} and the rows beside it ({files}) are not of the same preparation.",
            hint="Run `textlora prepare` again.",
        )
    return Dataset(folder, info, splits["train"], splits["validation"], splits["test"])


def _write_split(path: Path, split: Split) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = {
        "id": pa.array(split.ids, pa.string()),
        "text": pa.array(split.texts, pa.string()),
        "label": pa.array(split.labels, pa.int32()),
    }
    with storage.atomic_path(path) as temporary:
        pq.write_table(pa.table(columns), temporary, compression="zstd")


def _read_split(path: Path) -> Split:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.exists():
        raise UsageError(f"{path} does not exist.", hint="`textlora prepare` writes it: run that first.")
    try:
        table = pq.read_table(path, columns=["id", "text", "label"])
        return Split(*(tuple(table.column(name).to_pylist()) for name in ("id", "text", "label")))
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UsageError(
            f"{path} is damaged: {str(error).splitlines()[0]}", hint="Run `textlora prepare` again."
        ) from error


def _write_quarantine(path: Path, rejected: Iterable[Rejected]) -> None:
    with storage.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("line", "row", "reason", "text", "label", "raw"))
        for item in sorted(rejected, key=lambda item: (item.origin, item.line)):
            writer.writerow((item.line, item.row, item.reason, *map(_safe_cell, (item.text, item.label, item.raw))))


def _safe_cell(cell: str) -> str:
    """Return a cell that every program can read and no spreadsheet takes for a formula."""
    cell = checks.replace_surrogates(cell[:CELL_LIMIT]).replace("\0", "\u2400")
    return f"'{cell}" if cell[:1] in ("=", "+", "-", "@", "\t", "\r") and cell[:1] else cell
