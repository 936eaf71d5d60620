"""Tables from hostile files: every record comes out whole or as broken, in its place."""

from __future__ import annotations

import csv
import gzip
import json
import lzma
import random
import tracemalloc

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from textlora import readers
from textlora.errors import DataError, UsageError
from textlora.readers import BadRow, Row, delimited, find_columns, find_text_column, open_table, read_frame

CONTENT = 'review,sentiment\n"late, but ""it"" works",positive\nbroke at once,negative\n'
EXPECTED = "a CSV, TSV, JSON lines or Parquet file is expected, plain or compressed with gzip, xz or zstd"
PACK = {"": bytes, ".gz": gzip.compress, ".xz": lzma.compress, ".zst": zstandard.compress}
DAMAGED = "The compressed data ends early or is broken: copy or download the file again."


def write(folder, content, name="reviews.csv"):
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def values(table):
    return [row.values for row in table if isinstance(row, Row)]


def faults(table):
    return [(row.line, row.reason) for row in table if isinstance(row, BadRow)]


# -- formats -------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", PACK)
@pytest.mark.parametrize("keep_name", [True, False])
def test_csv_is_read_however_compressed_and_named(tmp_path, suffix, keep_name):
    path = write(tmp_path, PACK[suffix](CONTENT.encode()), f"reviews.csv{suffix if keep_name else ''}")
    table = open_table(path)
    assert (table.columns, table.format, table.delimiter) == (("review", "sentiment"), "csv", ",")
    assert list(table) == [
        Row(0, 2, ('late, but "it" works', "positive")),
        Row(1, 3, ("broke at once", "negative")),
    ]
    assert list(table) == list(table), "a table can be read again"


@pytest.mark.parametrize("suffix", PACK)
def test_parquet_is_read_however_compressed(tmp_path, suffix):
    pq.write_table(pa.table({"text": ["a", None, "c"], "stars": [1, 2, None]}), tmp_path / "plain")
    path = write(tmp_path, PACK[suffix]((tmp_path / "plain").read_bytes()), f"reviews.parquet{suffix}")
    table = open_table(path)
    assert (table.columns, table.format, table.delimiter, table.unit) == (("text", "stars"), "parquet", None, "row")
    assert list(table) == [Row(0, 1, ("a", 1)), Row(1, 2, (None, 2)), Row(2, 3, ("c", None))]


@pytest.mark.parametrize("suffix", PACK)
def test_json_lines_keep_native_values_and_all_columns(tmp_path, suffix):
    lines = ['{"text": "a", "label": 0}', "", '{"text": "b", "tags": ["x"], "label": true}', '{"late": 1.5}']
    table = open_table(write(tmp_path, PACK[suffix]("\n".join(lines).encode()), f"rows.jsonl{suffix}"))
    assert table.columns == ("text", "label", "tags", "late")
    assert list(table) == [
        Row(0, 1, ("a", 0, None, None)),
        Row(1, 3, ("b", True, ["x"], None)),
        Row(2, 4, (None, None, None, 1.5)),
    ]


def test_json_lines_are_told_by_content_where_the_name_says_nothing(tmp_path):
    assert open_table(write(tmp_path, '{"text": "a"}\n', "rows")).format == "jsonl"


def test_broken_json_lines(tmp_path):
    deep = "[" * 100_000
    content = '{"text": "a"}\n{"text": \n["a"]\n"b"\n' + deep + '\n{"text": "x\0"}\n{"text": "b"}'
    table = open_table(write(tmp_path, content, "rows.jsonl"))
    assert faults(table) == [
        (2, "not JSON"),
        (3, "not a JSON object"),
        (4, "not a JSON object"),
        (5, "not JSON"),
        (6, "nul byte"),
    ]
    assert list(table)[-1] == Row(1, 7, ("b",))


def test_many_rows_of_parquet_are_numbered_through(tmp_path):
    pq.write_table(pa.table({"n": list(range(5000))}), tmp_path / "n.parquet", row_group_size=700)
    assert [(row.number, row.line, row.values[0]) for row in open_table(tmp_path / "n.parquet")] == [
        (n, n + 1, n) for n in range(5000)
    ]


def test_data_frame():
    frame = pd.DataFrame(
        {"text": ["a", None, "NA"], "label": [1, 0, 1], 7: [0.5, float("nan"), 2.0]}, index=[10, 10, 12]
    )
    table = read_frame(frame)
    assert table.columns == ("text", "label", "7")
    assert list(table) == [Row(0, 1, ("a", 1, 0.5)), Row(1, 2, (None, 0, None)), Row(2, 3, ("NA", 1, 2.0))]


def test_data_frame_with_every_kind_of_missing_value():
    frame = pd.DataFrame({"a": pd.array([1, None], dtype="Int64"), "b": pd.to_datetime(["2020-01-01", None])})
    assert list(read_frame(frame))[1].values == (None, None)


def test_empty_data_frame():
    with pytest.raises(DataError) as caught:
        read_frame(pd.DataFrame({"text": []}))
    assert str(caught.value) == "The data frame has no rows.\nAt least two rows of each label are needed."


# -- encodings -----------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_unicode_with_and_without_a_byte_order_mark(tmp_path, encoding):
    text = "text,label\nnaïve – 😀,pos\nplain,neg\n" * 50_000
    table = open_table(write(tmp_path, text.encode(encoding)))
    assert table.columns == ("text", "label")
    rows = list(table)
    assert rows[0] == Row(0, 2, ("naïve – 😀", "pos"))
    assert len(rows) == 149_999


def test_big_endian_utf16(tmp_path):
    content = b"\xfe\xff" + "text,label\nü,pos\n".encode("utf-16-be")
    assert values(open_table(write(tmp_path, content))) == [("ü", "pos")]


@pytest.mark.parametrize("filler", [0, 3, 400_000])
def test_latin1_bytes_are_reported_with_their_place(tmp_path, filler):
    head = ("text,label\n" + "é,pos\n" * filler).encode()
    path = write(tmp_path, head + "ab é,neg\n".encode("latin-1"))
    with pytest.raises(DataError) as caught:
        list(open_table(path))
    assert str(caught.value) == (
        f"{path} is not UTF-8: byte 0xe9 at offset {len(head) + 3} (line {filler + 2}) cannot be read.\n"
        "If you know how the file was saved, say it: --encoding latin-1, or --encoding cp1252 for files from Windows."
    )


def test_named_encodings(tmp_path):
    path = write(tmp_path, "text,label\ncafé €,pos\n".encode("cp1252"))
    assert values(open_table(path, encoding="cp1252")) == [("café €", "pos")]
    with pytest.raises(DataError) as caught:
        list(open_table(path, encoding="ascii"))
    assert str(caught.value) == (
        f"{path} is not ASCII: byte 0xe9 at offset 14 (line 2) cannot be read.\n"
        "Name the encoding the file was saved with: --encoding NAME."
    )


@pytest.mark.parametrize("name", ["utf9", "base64"])
def test_unknown_encoding(tmp_path, name):
    with pytest.raises(UsageError) as caught:
        open_table(write(tmp_path, CONTENT), encoding=name)
    suggestion = " Did you mean 'utf-8'?" if name == "utf9" else ""
    assert str(caught.value) == (
        f"There is no text encoding {name!r}.{suggestion}\n"
        "Common ones: utf-8, utf-16, latin-1, cp1252, iso-8859-15, shift-jis, gb18030, koi8-r."
    )


def test_character_cut_at_the_end_of_the_file(tmp_path):
    path = write(tmp_path, CONTENT.encode() + b"good \xc3")
    with pytest.raises(DataError, match=f"byte 0xc3 at offset {len(CONTENT) + 5} \\(line 4\\)"):
        list(open_table(path))


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_named(tmp_path, encoding):
    path = write(tmp_path, CONTENT.encode(encoding))
    with pytest.raises(DataError) as caught:
        open_table(path)
    assert str(caught.value) == (
        f"{path} looks like UTF-16 without a byte order mark.\nIf that is so, say it with --encoding {encoding}."
    )
    assert len(values(open_table(path, encoding=encoding))) == 2


# -- files that are no table ---------------------------------------------------------------------


def test_missing_file(tmp_path):
    write(tmp_path, CONTENT)
    with pytest.raises(DataError) as caught:
        open_table(tmp_path / "review.csv")
    assert str(caught.value) == (
        f"{tmp_path / 'review.csv'} does not exist. Did you mean 'reviews.csv'?\nCheck the path and the name."
    )


def test_folder(tmp_path):
    with pytest.raises(DataError) as caught:
        open_table(tmp_path)
    assert str(caught.value) == f"{tmp_path} is a folder; {EXPECTED}.\nName one file of it."


@pytest.mark.parametrize("content", [b"", b" \n\n", gzip.compress(b"", mtime=0), b"\xef\xbb\xbf"])
def test_empty_file(tmp_path, content):
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        open_table(path)
    assert str(caught.value) == f"{path} is empty.\nThe first line must name the columns, rows must follow."


@pytest.mark.parametrize("content", ["text,label", "text,label\n", "text,label\n\n \n"])
def test_header_only(tmp_path, content):
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        open_table(path)
    assert str(caught.value) == (f"{path} has a header but no rows.\nRows must follow the line that names the columns.")


def test_parquet_without_rows(tmp_path):
    pq.write_table(pa.table({"text": pa.array([], pa.string())}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="has columns but no rows"):
        open_table(tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"PK\x03\x04rest", "a ZIP archive or an Excel workbook"),
        (b"%PDF-1.7", "a PDF document"),
        (bytes(range(256)) * 20, "a binary file of unknown kind"),
    ],
)
def test_foreign_files(tmp_path, content, what):
    path = write(tmp_path, content)
    with pytest.raises(DataError) as caught:
        open_table(path)
    assert str(caught.value) == f"{path} is {what}; {EXPECTED}.\nSave or export it as CSV."


def test_json_array(tmp_path):
    path = write(tmp_path, '[{"text": "a"}]', "rows.json")
    with pytest.raises(DataError) as caught:
        open_table(path)
    assert str(caught.value) == (
        f"{path} is a JSON array; one JSON object per line is expected.\nConvert it, for instance with `jq -c '.[]'`."
    )


def test_broken_header(tmp_path):
    path = write(tmp_path, '"text,label\na,b\n')
    with pytest.raises(DataError) as caught:
        open_table(path)
    assert str(caught.value) == (
        f"The header of {path} (line 1) is broken: unclosed quote.\nThe first line must name the columns."
    )


def test_column_named_twice(tmp_path):
    path = write(tmp_path, "text,label,text\na,b,c\n")
    with pytest.raises(DataError) as caught:
        open_table(path)
    assert str(caught.value) == (
        f"The header of {path} names 'text' more than once.\nEvery column needs a name of its own."
    )


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_compression(tmp_path, suffix, damage):
    rows = "".join(f"{n} {random.Random(n).random()},pos\n" for n in range(20_000))
    packed = bytearray(PACK[suffix](b"text,label\n" + rows.encode()))
    if damage == "cut":
        del packed[-20:]
    else:
        packed[len(packed) // 2] ^= 0xFF
    path = write(tmp_path, bytes(packed), f"reviews.csv{suffix}")
    with pytest.raises(DataError) as caught:
        list(open_table(path))
    assert caught.value.message.startswith(f"{path} is damaged: ")
    assert caught.value.hint == DAMAGED
    if damage == "cut":
        assert "ended before the end-of-stream marker" in caught.value.message


@pytest.mark.parametrize("suffix", [".gz", ".xz", ".zst"])
def test_joined_compressed_files(tmp_path, suffix):
    parts = PACK[suffix](CONTENT.encode()) + PACK[suffix](b"fine,positive\n")
    assert len(values(open_table(write(tmp_path, parts)))) == 3


def test_damaged_parquet(tmp_path):
    pq.write_table(pa.table({"text": ["a"] * 1000}), tmp_path / "a.parquet")
    path = write(tmp_path, (tmp_path / "a.parquet").read_bytes()[:-30], "cut.parquet")
    with pytest.raises(DataError) as caught:
        open_table(path)
    assert caught.value.message.startswith(f"{path} is damaged: ")
    assert caught.value.hint == "Write or copy the file again."


# -- CSV structure -------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_delimiters_are_found(tmp_path, delimiter):
    rows = [("text", "label")] + [("a, b; c", "pos"), ("one; two, three", "neg"), ("pipe", "neg")] * 5
    path = tmp_path / "rows.txt"
    with path.open("w", newline="") as stream:
        csv.writer(stream, delimiter=delimiter).writerows(rows)
    table = open_table(path)
    assert (table.delimiter, table.delimiter_confidence) == (delimiter, "sure")
    assert values(table) == rows[1:]


def test_semicolon_file_with_many_commas(tmp_path):
    table = open_table(write(tmp_path, "text;label\n" + "well, well, well;pos\nno, no;neg\n" * 3))
    assert (table.delimiter, table.columns) == (";", ("text", "label"))
    assert values(table)[0] == ("well, well, well", "pos")


def test_delimiter_confidence_and_choice(tmp_path):
    path = write(tmp_path, "a;b,c;d\n1;2,3;4\n5;6,7;8\n")
    assert open_table(path).delimiter_confidence == "guess"
    table = open_table(path, delimiter=";")
    assert (table.columns, table.delimiter_confidence) == (("a", "b,c", "d"), "sure")
    ragged = write(tmp_path, "a,b\n1,2\n3,4\n5\n")
    assert open_table(ragged).delimiter_confidence == "likely"


def test_tabs_can_be_named(tmp_path):
    path = write(tmp_path, "a\tb\n1\t2\n")
    assert values(open_table(path, delimiter="tab")) == values(open_table(path, delimiter="\\t")) == [("1", "2")]


def test_delimiter_of_two_characters(tmp_path):
    with pytest.raises(UsageError) as caught:
        open_table(write(tmp_path, CONTENT), delimiter="::")
    assert str(caught.value) == (
        "The delimiter is '::', expected one character.\nUsual ones: comma, semicolon, | or tab."
    )


def test_line_numbers_with_line_breaks_in_cells_and_blank_lines(tmp_path):
    content = 'text,label\r\n"one\r\ntwo\r\n",pos\r\n\r\nlast,neg\r\n'
    assert list(open_table(write(tmp_path, content))) == [
        Row(0, 2, ("one\r\ntwo\r\n", "pos")),
        Row(1, 6, ("last", "neg")),
    ]


def test_old_mac_line_ends(tmp_path):
    assert values(open_table(write(tmp_path, "text,label\ra,pos\rb,neg\r"))) == [("a", "pos"), ("b", "neg")]


def test_words_for_nothing_stay_texts(tmp_path):
    content = "text,label\nNA,a\nNone,a\nnull,b\nnan,b\n,b\n"
    assert [row[0] for row in values(open_table(write(tmp_path, content)))] == ["NA", "None", "null", "nan", ""]


def test_ragged_rows(tmp_path):
    content = 'text,label\na,pos\nb\nc,neg,x\n"d\ne",neg,\nf,neg\n'
    table = open_table(write(tmp_path, content))
    assert [row for row in table if isinstance(row, BadRow)] == [
        BadRow(3, "too few cells", "b"),
        BadRow(4, "too many cells", "c,neg,x"),
        BadRow(5, "too many cells", '"d\ne",neg,'),
    ]
    assert list(table)[-1] == Row(1, 7, ("f", "neg")), "numbers count the whole rows only"


def test_nul_bytes(tmp_path):
    table = open_table(write(tmp_path, b'text,label\na,pos\nb\0c,pos\n"d\ne\0",neg\nf,neg\n'))
    assert faults(table) == [(3, "nul byte"), (4, "nul byte")]
    assert values(table) == [("a", "pos"), ("f", "neg")]


@pytest.mark.parametrize(
    ("broken", "after"),
    [
        ('"never closed,pos', []),
        ('"closed by the next row,pos', [('quoted, "fine"', "neg")]),
        ('x,"never closed', []),
    ],
)
def test_unclosed_quote_costs_one_line(tmp_path, broken, after):
    good = [(f"row {n}", "pos") for n in range(500)]
    path = tmp_path / "reviews.csv"
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerows([("text", "label"), *good])
        stream.write(broken + "\n")
        writer.writerows(good + after + good)
    table = open_table(path)
    assert faults(table) == [(502, "unclosed quote")]
    assert values(table) == good + good + after + good


def test_unclosed_quote_in_the_last_line(tmp_path):
    table = open_table(write(tmp_path, CONTENT + '"open,pos'))
    assert faults(table) == [(4, "unclosed quote")]
    assert len(values(table)) == 2


def test_stray_quotes_and_the_tail_of_their_cell(tmp_path):
    content = 'text,label\n"He said "hi" to me\nand left",pos\n5" nails,neg\nfine,neg\n'
    table = open_table(write(tmp_path, content))
    # The tail looks like a row of two cells; so does the next one, which is given up with it.
    assert faults(table) == [(2, "stray quote"), (3, "stray quote"), (4, "stray quote")]
    assert values(table) == [("fine", "neg")]


def test_quotes_inside_plain_cells_are_text(tmp_path):
    assert values(open_table(write(tmp_path, 'text,label\n5" nails,pos\n'))) == [('5" nails', "pos")]


@pytest.mark.parametrize("line", ['a","b\n', 'x,"b\n', '"a\n', 'a,"b","c\n'])
def test_a_quote_in_every_line_stays_linear(line, monkeypatch):
    scanned = 0
    original = delimited._Feed._next_line

    def counting(feed):
        nonlocal scanned
        found = original(feed)
        scanned += len(found)
        return found

    monkeypatch.setattr(delimited._Feed, "_next_line", counting)
    lines = [line] * 20_000
    limit = 10_000
    records = list(delimited._csv_records(lines, ",", limit))
    assert sum(len(record.lines) for record in records) == 20_000, "every line is accounted for"
    # Read once for good, at most four times and one record in vain, plus a line per attempt.
    assert scanned <= 6 * len(line) * 20_000 + 2 * limit


def test_a_cell_of_fifty_megabytes_is_never_held(tmp_path):
    path = tmp_path / "big.csv"
    with path.open("w") as stream:
        stream.write("text,label\nsmall,pos\n")
        for _ in range(50):
            stream.write("x" * 1_000_000)
        stream.write(",neg\nlast,neg\n")
    tracemalloc.start()
    table = open_table(path)
    rows = list(table)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == [
        Row(0, 2, ("small", "pos")),
        BadRow(3, "oversized", "x" * readers.RAW_LIMIT),
        Row(1, 4, ("last", "neg")),
    ]
    assert peak < 50e6


def test_long_cells_below_the_limit_are_read(tmp_path):
    text = "word, " * 500_000
    assert values(open_table(write(tmp_path, f'text,label\n"{text}",pos\n'))) == [(text, "pos")]


def test_reading_is_streamed(tmp_path):
    path = tmp_path / "long.csv"
    with path.open("w") as stream:
        stream.write("text,label\n")
        stream.write(("a text of some length that is repeated " * 8 + ",pos\n") * 50_000)
    table = open_table(path)
    tracemalloc.start()
    assert sum(1 for _ in table) == 50_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 15e6
    assert peak < 9e6


@pytest.mark.parametrize("seed", range(20))
def test_no_line_is_lost_in_random_files(tmp_path, seed):
    """Any mixture of characters: all lines come out once, and no exception leaves the reader."""
    chooser = random.Random(seed)
    body = "".join(chooser.choices(['"', ",", "\n", "a", "b ", '""', '",', ";", "\0", "\r\n", "é"], k=3_000))
    path = write(tmp_path, "text,label\n" + body + "\n")
    source = open_table(path, delimiter=",")
    lines = [row.line for row in source]
    assert lines == sorted(set(lines))
    assert [row.number for row in source if isinstance(row, Row)] == list(range(len(values(source))))
    records = list(delimited._csv_records([f"{line}\n" for line in body.split("\n")], ","))
    blank = sum(not line.strip() for line in body.split("\n"))
    assert sum(len(record.lines) for record in records) >= len(body.split("\n")) - blank


def test_good_files_equal_csv_reader(tmp_path):
    chooser = random.Random(1)
    cells = ["plain", "with, comma", 'with "quotes"', "two\nlines", "", " spaces ", "ü", '"', ",", "\n", "'"]
    rows = [(chooser.choice(cells), chooser.choice(cells), "x") for _ in range(2_000)]
    path = tmp_path / "rows.csv"
    with path.open("w", newline="") as stream:
        csv.writer(stream).writerows([("a", "b", "c"), *rows])
    assert values(open_table(path)) == rows


# -- columns -------------------------------------------------------------------------------------


def columns_of(data, **named):
    table = read_frame(pd.DataFrame(data))
    return find_columns(table.head(), table.columns, **named)


LONG = [f"this is quite a long text number {n}" for n in range(40)]
NOTES = [f"something short {n}" for n in range(40)]
BINARY = [n % 2 for n in range(40)]
WORDS = [("no", "yes", "perhaps")[n % 3] for n in range(40)]


@pytest.mark.parametrize(
    ("data", "text", "label"),
    [
        ({"review": LONG, "sentiment": WORDS}, ("review", "sure"), ("sentiment", "sure")),
        ({"label": BINARY, "text": LONG}, ("text", "sure"), ("label", "sure")),
        ({"id": range(40), "reviewText": LONG, "rating": BINARY}, ("reviewText", "sure"), ("rating", "likely")),
        ({"a": LONG, "b": WORDS, "c": range(40)}, ("a", "likely"), ("b", "likely")),
        ({"text": LONG, "label": BINARY, "label_text": WORDS}, ("text", "sure"), ("label", "sure")),
        ({"Tweet": NOTES, "Category": range(40)}, ("Tweet", "sure"), ("Category", "guess")),
        (
            {"review_id": [f"R{n:012}" for n in range(40)], "story": LONG, "class": WORDS},
            ("story", "likely"),
            ("class", "sure"),
        ),
        ({"comment": ["ok", "no"] * 20, "label": BINARY}, ("comment", "likely"), ("label", "sure")),
    ],
)
def test_columns_are_found(data, text, label):
    found = columns_of(data)
    assert (found.text, found.text_confidence) == text
    assert (found.label, found.label_confidence) == label


def test_reason_is_said():
    assert columns_of({"review": LONG, "kind": WORDS}).reason == (
        "The text is column 'review' (sure: its name and its content agree), "
        "the label column 'kind' (likely: it has few distinct values)."
    )


def test_named_columns_win():
    found = columns_of({"review": LONG, "summary": NOTES, "x": WORDS, "label": BINARY}, text="summary", label="x")
    assert (found.text, found.label, found.text_confidence, found.label_confidence) == ("summary", "x", "sure", "sure")


def test_unknown_column():
    with pytest.raises(UsageError) as caught:
        columns_of({"review": LONG, "sentiment": WORDS}, label="sentimant", where="reviews.csv")
    assert str(caught.value) == (
        "There is no column 'sentimant' in reviews.csv. Did you mean 'sentiment'?\nColumns: review, sentiment."
    )


def test_unknown_columns_are_reported_together():
    with pytest.raises(UsageError) as caught:
        columns_of({"review": LONG, "sentiment": WORDS}, text="Reviews", label="zzz", where="reviews.csv")
    assert str(caught.value) == (
        "Some columns are not in reviews.csv:\n"
        "  - There is no column 'Reviews' in reviews.csv. Did you mean 'review'?\n"
        "  - There is no column 'zzz' in reviews.csv.\n"
        "Columns: review, sentiment."
    )


def test_one_column_for_both():
    with pytest.raises(UsageError) as caught:
        columns_of({"review": LONG, "sentiment": WORDS}, text="review", label="review")
    assert str(caught.value) == "Text and label are the same column 'review'.\nColumns: review, sentiment."


def test_ambiguous_text():
    with pytest.raises(DataError) as caught:
        columns_of({"sentence1": LONG, "sentence2": LONG, "label": BINARY}, where="pairs.csv")
    assert str(caught.value) == (
        "Several columns of pairs.csv could be the text: sentence1, sentence2.\nName it: --text sentence1."
    )


def test_ambiguous_label():
    with pytest.raises(DataError) as caught:
        columns_of({"text": LONG, "a": BINARY, "b": WORDS}, where="rows.csv")
    assert str(caught.value) == "Several columns of rows.csv could be the label: a, b.\nName it: --label a."


def test_no_label():
    with pytest.raises(DataError) as caught:
        columns_of({"text": LONG, "n": range(40), "x" * 99: range(40)}, where="rows.csv")
    assert str(caught.value) == (
        f"No column of rows.csv looks like the label. Columns: n, {'x' * 39}….\n"
        "The first line must name the columns; then name it with --label COLUMN."
    )


def test_text_column_alone():
    table = read_frame(pd.DataFrame({"id": range(40), "note": LONG}))
    assert find_text_column(table.head(), table.columns) == "note"
    assert find_text_column(table.head(), table.columns, text="id") == "id"
    assert find_text_column([], ["anything"]) == "anything"
    with pytest.raises(UsageError, match=r"There is no column 'nota' in the data\. Did you mean 'note'\?"):
        find_text_column(table.head(), table.columns, text="nota")


def test_values_survive_json_round_trip(tmp_path):
    row = {"text": "a\ud800 \u2028 b", "n": 10**30, "x": None, "nested": {"a": [1, 2.5, False]}}
    table = open_table(write(tmp_path, json.dumps(row), "rows.jsonl"))
    assert values(table) == [tuple(row.values())]
