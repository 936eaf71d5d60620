"""The files of a prepared run folder, written and read back."""

from __future__ import annotations

import csv
import heapq
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from textlora import checks, storage
from textlora.errors import UsageError
from textlora.preparation.attributes import GROUP, KEPT
from textlora.preparation.describing import dataset_fingerprint
from textlora.preparation.ledger import CELL_LIMIT, MAIN, Ledger
from textlora.preparation.request import Origin
from textlora.preparation.rows import Rows, shown_label
from textlora.preparation.separating import Separated
from textlora.preparation.spilling import Spill
from textlora.preparation.splitting import NOWHERE
from textlora.preparation.stored import open_split
from textlora.types import SLICE, SPLIT_NAMES, Dataset, DatasetInfo

GROUP_ROWS = 8_192
GROUP_BYTES = 1 << 22
"""A row group of a split ends with the block of rows that fills either."""


def write_dataset(  # noqa: PLR0917 - what the stages before made
    folder: Path, info: DatasetInfo, rows: Rows, separated: Separated, broken: Spill, ledger: Ledger
) -> Dataset:
    """Write splits, quarantine and description, each file atomically, none of them ever whole in memory.

    Raises:
        ResourceError: a file cannot be written.
    """
    written, total = 0, int((separated.parts != NOWHERE).sum())
    for place, name in enumerate(SPLIT_NAMES):
        for count in _write_split(split_path(folder, name), rows, separated, place):
            written += count
            ledger.progress("write", written, total)
    splits = {name: open_split(split_path(folder, name)) for name in SPLIT_NAMES}
    _write_quarantine(folder / storage.QUARANTINE, rows, info.label_names, broken)
    info = replace(info, fingerprint=dataset_fingerprint(info.label_names, splits), split_sha256=_digests(folder))
    # Last, so that its presence says that all the others are whole.
    storage.write_noun(folder / storage.DATASET, info)
    return Dataset(folder, info, splits["train"], splits["validation"], splits["test"])


def load_dataset(folder: str | Path) -> Dataset:
    """Open what ``prepare`` wrote and check that its files belong together; rows are read when they are needed.

    Raises:
        UsageError: a file is missing, damaged, or from another ``prepare``.
    """
    folder = Path(folder)
    info = storage.read_noun(folder / storage.DATASET, DatasetInfo, made_by="prepare")
    splits = {name: open_split(split_path(folder, name)) for name in SPLIT_NAMES}
    # Other bytes may still be the same rows, written by another program; only then all are read.
    if _digests(folder) != info.split_sha256 and dataset_fingerprint(info.label_names, splits) != info.fingerprint:
        files = ", ".join(f"{name}.parquet" for name in SPLIT_NAMES)
        raise UsageError(
            f"{folder / storage.DATASET} and the rows beside it ({files}) are not of the same preparation.",
            hint="Run `textlora prepare` again.",
        )
    return Dataset(folder, info, splits["train"], splits["validation"], splits["test"])


def split_path(folder: Path, name: str) -> Path:
    """Return where the rows of a split are."""
    return folder / f"{name}.parquet"


def _digests(folder: Path) -> dict[str, str]:
    return {name: storage.file_fingerprint(split_path(folder, name)) for name in SPLIT_NAMES}


def _write_split(path: Path, rows: Rows, separated: Separated, place: int) -> Iterator[int]:
    """Write the rows of a split, and yield the size of each row group when it is written."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    chosen = separated.parts == place
    marks = _marks(separated, place)
    grouped = rows.groups is not None and bool(rows.groups[chosen].any())
    label = pa.list_(pa.int32()) if rows.sets else pa.int32()
    columns = [("id", pa.string()), ("text", pa.string()), ("label", label)]
    # Where in a row's extra cells the further columns of texts come from.
    texts = ({"group": GROUP} if grouped else {}) | {
        f"{SLICE}{name}": KEPT + n for n, name in enumerate(rows.slice_columns)
    }
    schema = pa.schema(
        [
            *columns,
            *((name, pa.string()) for name in texts),
            *((name, pa.from_numpy_dtype(found.dtype)) for name, found in marks.items()),
        ]
    )
    storage.remove_leftovers(path)
    options: dict[str, Any] = {
        "compression": "zstd",
        "use_dictionary": ["label.list.element" if rows.sets else "label", *texts],
    }
    with storage.atomic_path(path) as temporary, pq.ParquetWriter(temporary, schema, **options) as file:
        for group in _groups(rows, chosen, texts, marks, schema):
            file.write_table(group, row_group_size=len(group))
            yield len(group)


def _marks(separated: Separated, place: int) -> dict[str, NDArray[np.bool_] | NDArray[np.int32]]:
    """Return what is known of the rows (N,) of a split by column name; only given files, which are never training, can leak."""
    leaked = separated.leaked if place != SPLIT_NAMES.index("train") else None
    marks: dict[str, NDArray[np.bool_] | NDArray[np.int32] | None] = {
        "near_duplicate": separated.near_duplicates,
        "leaked": leaked,
        "cluster": separated.clusters,
    }
    chosen = separated.parts == place
    return {
        name: found for name, found in marks.items() if found is not None and (name != "leaked" or found[chosen].any())
    }


def _groups(
    rows: Rows,
    chosen: NDArray[np.bool_],
    texts: Mapping[str, int],
    marks: Mapping[str, NDArray[np.bool_] | NDArray[np.int32]],
    schema: Any,
) -> Iterator[Any]:
    """Yield the chosen rows as Arrow tables of about equal size."""
    import pyarrow as pa
    import pyarrow.compute as pc

    held, count, size = [], 0, 0
    for places, block in rows.spill.chosen(chosen):
        classes = rows.classes[places]
        labels = rows.sets.arrow(classes) if rows.sets else pa.array(classes)
        columns = [block["row"], block["text"].cast(pa.string()), labels]
        columns += [pc.list_element(block["extra"], place) for place in texts.values()]
        columns += [pa.array(found[places]) for found in marks.values()]
        held.append(pa.record_batch(columns, schema=schema))
        count, size = count + len(block), size + block.nbytes
        if count >= GROUP_ROWS or size >= GROUP_BYTES:
            yield pa.Table.from_batches(held)
            held, count, size = [], 0, 0
    if held:
        yield pa.Table.from_batches(held)


# -- what was set aside --------------------------------------------------------------------------


def _write_quarantine(path: Path, rows: Rows, names: Sequence[str], broken: Spill) -> None:
    """Write the rows that were set aside, by source and line."""
    with storage.atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("line", "row", "reason", "text", "label", "raw"))
        origins: tuple[Origin, ...] = (MAIN, "test", "validation")
        for origin in origins:
            for line in heapq.merge(
                _broken(broken, origin), _unusable(rows, origin, names), key=lambda cells: cells[0]
            ):
                writer.writerow((*line[:3], *(checks.spreadsheet_cell(cell[:CELL_LIMIT]) for cell in line[3:])))


Line = tuple[int, str, str, str, str, str]


def _broken(broken: Spill, origin: Origin) -> Iterator[Line]:
    """Yield the broken records of a source in its order."""
    row = f"{origin}/" if origin else ""
    for _, block in broken.blocks():
        for found, line, raw, reason in zip(
            *(block[name].to_pylist() for name in ("row", "line", "text", "fault")), strict=True
        ):
            if found == row:
                yield line, row, reason, "", "", _decoded(raw)


def _unusable(rows: Rows, origin: Origin, names: Sequence[str]) -> Iterator[Line]:
    """Yield the whole rows of a source that were set aside, in its order."""
    bounds = rows.bounds(origin)
    chosen = np.zeros(len(rows), dtype=np.bool_)
    chosen[bounds] = rows.reasons[bounds] > 0
    for places, block in rows.spill.chosen(chosen, bounds.start, bounds.stop):
        reasons, classes = rows.reasons[places].tolist(), rows.classes[places].tolist()
        found = (block[name].to_pylist() for name in ("row", "line", "text", "label"))
        for row, line, text, label, reason, place in zip(*found, reasons, classes, strict=True):
            shown = shown_label(label) if place < 0 or rows.sets else names[place]
            yield line, row, rows.reason_texts[reason - 1], _decoded(text), shown, ""


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogatepass")
