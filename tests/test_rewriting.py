"""A corrected copy of a file: what changes changes, all else stays to the last byte."""

from __future__ import annotations

import gzip
import json
import lzma
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from textlora.errors import DataError
from textlora.readers import open_table, rewriting
from textlora.readers import rewrite_file as rewrite


def copy(source: Path, target: Path, changes: dict, dropped: set = frozenset(), **options: str) -> bytes:
    rewrite(source, target, column="label", changes=changes, dropped=dropped, **options)
    return target.read_bytes()


class TestDelimited:
    def test_other_lines_keep_quotes_ends_and_faults(self, tmp_path):
        raw = b'id;text;label\r\n1;"quoted; twice";"pos"\r\n\r\n2;plain;neg\r\n3;broken row\r\n4;"two\nlines";neg'
        source = tmp_path / "in.csv"
        source.write_bytes(raw)
        found = copy(source, tmp_path / "out.csv", {1: "pos", 2: "a;b"})
        assert found == (
            b'id;text;label\r\n1;"quoted; twice";"pos"\r\n\r\n2;plain;pos\r\n3;broken row\r\n4;"two\nlines";"a;b"'
        )

    def test_dropped_rows(self, tmp_path):
        source = tmp_path / "in.tsv"
        source.write_text('text\tlabel\none\ta\n"two\nlines"\tb\nthree\ta\n', encoding="utf-8")
        assert copy(source, tmp_path / "out.tsv", {}, {0, 1}) == b"text\tlabel\nthree\ta\n"

    def test_nothing_to_do_is_a_copy(self, tmp_path):
        source = tmp_path / "in.csv"
        source.write_bytes(b"text,label\nx,a\n  y ,b")
        assert copy(source, tmp_path / "out.csv", {}) == source.read_bytes()

    @pytest.mark.parametrize(
        ("codec", "mark"), [("utf-8", b"\xef\xbb\xbf"), ("utf-16-le", b"\xff\xfe"), ("utf-16-be", b"\xfe\xff")]
    )
    def test_a_byte_order_mark_stays(self, tmp_path, codec, mark):
        source = tmp_path / "in.csv"
        source.write_bytes(mark + "text,label\nschön,a\n日本,b\n".encode(codec))
        assert copy(source, tmp_path / "out.csv", {1: "ä"}) == mark + "text,label\nschön,a\n日本,ä\n".encode(codec)

    def test_the_encoding_stays(self, tmp_path):
        source = tmp_path / "in.csv"
        source.write_bytes("text,label\nschön,gut\n".encode("cp1252"))
        assert copy(source, tmp_path / "out.csv", {0: "übel"}, encoding="cp1252") == "text,label\nschön,übel\n".encode(
            "cp1252"
        )
        with pytest.raises(UnicodeEncodeError):
            copy(source, tmp_path / "out.csv", {0: "日"}, encoding="cp1252")

    def test_old_line_ends(self, tmp_path):
        source = tmp_path / "in.csv"
        source.write_bytes(b"text,label\rone,a\rtwo,b\r")
        assert copy(source, tmp_path / "out.csv", {0: "b"}) == b"text,label\rone,b\rtwo,b\r"

    def test_a_line_that_is_too_long_to_hold(self, tmp_path, monkeypatch):
        monkeypatch.setattr(rewriting, "RECORD_LIMIT", 20)
        source = tmp_path / "in.csv"
        source.write_text("text,label\none,a\n" + "x" * 30 + ",a\n", encoding="utf-8")
        with pytest.raises(DataError) as error:
            copy(source, tmp_path / "out.csv", {0: "b"})
        assert str(error.value) == (
            f"Line 3 of {source} has more than 20 characters and cannot be copied.\nTake the line out of the file first."
        )


class TestCompression:
    @pytest.mark.parametrize(
        ("suffix", "unpack"),
        [
            ("gz", gzip.decompress),
            ("xz", lzma.decompress),
            ("zst", lambda raw: zstandard.decompress(raw, 1000)),
            ("", bytes),
        ],
    )
    def test_the_target_is_compressed_as_its_name_says(self, tmp_path, suffix, unpack):
        source = tmp_path / "in.csv.gz"
        source.write_bytes(gzip.compress(b"text,label\none,a\ntwo,b\n"))
        target = tmp_path / f"out.csv{'.' if suffix else ''}{suffix}"
        copy(source, target, {1: "a"})
        assert [row.values[1] for row in open_table(target)] == ["a", "a"]
        if suffix == "zst":
            unpack = lambda raw: zstandard.ZstdDecompressor().decompressobj().decompress(raw)  # noqa: E731
        assert unpack(target.read_bytes()) == b"text,label\none,a\ntwo,a\n"


class TestJsonLines:
    def test_keys_keep_their_order_and_other_lines_their_bytes(self, tmp_path):
        source = tmp_path / "in.jsonl"
        source.write_text(
            '{"label":0,  "text": "schön"}\n\nnot json\n{"label": 1, "text": "b", "more": [1.5, null]}\n',
            encoding="utf-8",
        )
        found = copy(source, tmp_path / "out.jsonl", {1: 0}).decode()
        assert found == '{"label":0,  "text": "schön"}\n\nnot json\n{"label": 0, "text": "b", "more": [1.5, null]}\n'

    def test_lists_and_dropped_rows(self, tmp_path):
        source = tmp_path / "in.jsonl"
        source.write_text('{"text": "é", "label": ["a"]}\n{"text": "b", "label": []}', encoding="utf-8")
        found = copy(source, tmp_path / "out.jsonl", {0: ["a", "b"]}, {1}).decode()
        assert json.loads(found) == {"text": "é", "label": ["a", "b"]}
        assert "é" in found


class TestParquet:
    @pytest.mark.parametrize(
        ("labels", "kind", "new"),
        [
            (["a", "b", "a"], pa.string(), "b"),
            ([0, 1, 0], pa.int8(), 1),
            (["a", "b", "a"], pa.dictionary(pa.int32(), pa.string()), "b"),
            ([["a"], [], ["a", "b"]], pa.list_(pa.string()), ["b"]),
        ],
    )
    def test_types_metadata_and_other_columns_stay(self, tmp_path, labels, kind, new):
        table = pa.table({"text": ["x", "y", "z"], "label": pa.array(labels, kind), "n": [1.5, None, 2.5]})
        table = table.replace_schema_metadata({"made": "by hand"})
        pq.write_table(table, tmp_path / "in.parquet", compression="gzip")
        copy(tmp_path / "in.parquet", tmp_path / "out.parquet", {0: new}, {1})
        found = pq.ParquetFile(tmp_path / "out.parquet")
        before = pq.ParquetFile(tmp_path / "in.parquet")
        assert found.schema_arrow.equals(before.schema_arrow, check_metadata=True)
        assert found.metadata.row_group(0).column(0).compression == "GZIP"
        assert found.read().to_pylist() == [
            {"text": "x", "label": new, "n": 1.5}, {"text": "z", "label": labels[2], "n": 2.5},
        ]  # fmt: skip
