"""The columns that scoring adds: their names, their Arrow types, their values from predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from textlora.types import Prediction

if TYPE_CHECKING:
    from textlora.classifier import Classifier

NOT_SURE, POSSIBLE = "not_sure", "possible_labels"
"""Columns of a classifier with an error rate."""
SOURCE_FILE, SOURCE_ROW = "source_file", "source_row"
"""Columns that say where a line came from, where several files become one."""


@dataclass(frozen=True, slots=True)
class Added:
    """What a classifier adds to each row.

    Attributes:
        label_names: in the order of the probabilities.
        several: whether a row is given a list of labels.
        sets: whether the classifier may abstain, and names the labels that it cannot rule out.
    """

    label_names: tuple[str, ...]
    several: bool = False
    sets: bool = False

    @classmethod
    def of(cls, classifier: Classifier) -> Added:
        """Return what this classifier adds."""
        bundle = classifier.bundle
        return cls(tuple(classifier.label_names), bundle.task == "multi_label", bundle.abstention is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the columns, in their order."""
        return added_columns(self.label_names, sets=self.sets)

    @property
    def schema(self) -> Any:
        """The Arrow schema of the columns."""
        import pyarrow as pa

        types = {self.names[0]: pa.list_(pa.string()) if self.several else pa.string(), self.names[-1]: pa.bool_()}
        if self.sets:
            types |= {NOT_SURE: pa.bool_(), POSSIBLE: pa.list_(pa.string())}
        return pa.schema([pa.field(name, types.get(name, pa.float64())) for name in self.names])

    def batch(self, predictions: Sequence[Prediction | None]) -> Any:
        """Return the columns of N predictions as an Arrow record batch of N rows; None gives a row of nulls."""
        import pyarrow as pa

        empty = [None] * len(self.names)
        rows = [empty if prediction is None else self._cells(prediction) for prediction in predictions]
        columns = zip(*rows, strict=True) if rows else ([] for _ in self.names)
        arrays = [pa.array(column, field.type) for field, column in zip(self.schema, columns, strict=True)]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)

    def _cells(self, prediction: Prediction) -> list[Any]:
        given = list(prediction.labels) if self.several else prediction.label
        doubt = [prediction.abstains, list(prediction.labels)] if self.sets else []
        return [given, prediction.probability, *doubt, *prediction.probabilities.values(), prediction.truncated]


def added_columns(label_names: Sequence[str], *, sets: bool = False) -> tuple[str, ...]:
    """Return the names of the columns that scoring adds; ``sets`` with those of a classifier with an error rate."""
    probabilities = (f"probability_{name}" for name in label_names)
    return ("prediction", "probability", *((NOT_SURE, POSSIBLE) if sets else ()), *probabilities, "truncated")
