"""Run-folder files: atomic writes, schema versions, disk errors."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from textlora import storage
from textlora.errors import ResourceError, UsageError
from textlora.types import Finding, Interval, RowCounts, Slice

SLICE = Slice("short", 12, Interval(0.5, 0.25, 0.75))
root_only = pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may write everywhere")


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def refused(call, kind=UsageError) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


# -- atomic files --------------------------------------------------------------------------------


def test_text_is_written_whole_and_nothing_else_stays(tmp_path):
    path = tmp_path / "a.txt"
    storage.write_text(path, "älter")
    storage.write_text(path, "neu")
    assert path.read_bytes() == b"neu"
    assert names(tmp_path) == ["a.txt"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.csv.xz"
    path.write_text("old")
    seen = []

    def write_half() -> None:
        with storage.atomic_path(path) as temporary:
            temporary.write_text("half")
            seen.append((temporary.suffix, path.read_text()))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert seen == [(".xz", "old")]
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.csv.xz"]


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with storage.atomic_path(path) as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert (path.read_text(), names(tmp_path)) == ("old", ["a.txt"])


def test_a_write_that_writes_nothing_is_an_error(tmp_path):
    def write() -> None:
        with storage.atomic_path(tmp_path / "a.txt"):
            pass

    assert refused(write, ResourceError).startswith(f"Cannot write {tmp_path}/a.txt: No such file or directory.")
    assert names(tmp_path) == []


# -- atomic folders ------------------------------------------------------------------------------


def test_a_folder_takes_the_old_ones_place(tmp_path):
    folder = tmp_path / "runs" / "adapter"
    for content in ("one", "two"):
        with storage.atomic_folder(folder) as temporary:
            (temporary / "inner").mkdir()
            (temporary / "inner" / f"{content}.txt").write_text(content)
    assert names(folder / "inner") == ["two.txt"]
    assert names(tmp_path / "runs") == ["adapter"]


def test_a_failed_folder_leaves_the_old_one(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "old.txt").write_text("old")

    def write_half() -> None:
        with storage.atomic_folder(folder) as temporary:
            (temporary / "new.txt").write_text("half")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert names(folder) == ["old.txt"]
    assert names(tmp_path) == ["adapter"]


def test_a_folder_that_cannot_be_moved_into_place_gives_the_old_one_back(tmp_path):
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "old.txt").write_text("old")

    def lose_the_new_one() -> None:
        with storage.atomic_folder(folder) as temporary:
            temporary.rmdir()

    assert refused(lose_the_new_one, ResourceError).startswith(f"Cannot write {folder}: No such file or directory.")
    assert (folder / "old.txt").read_text() == "old"
    with pytest.raises(FileNotFoundError):
        storage._exchange(folder, tmp_path / "new", tmp_path / "aside")
    assert (folder / "old.txt").read_text() == "old"
    assert names(tmp_path) == ["adapter"]


# -- disk errors ---------------------------------------------------------------------------------


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(tmp_path):
    def fill() -> None:
        with storage.disk_errors(tmp_path / "a.txt"), open("/dev/full", "w") as stream:  # noqa: PTH123
            stream.write("x" * 100_000)

    assert refused(fill, ResourceError) == (
        f"The disk is full: cannot write {tmp_path}/a.txt.\n"
        "Free some space or choose another folder with --out, then run the same command again."
    )


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("EDQUOT", "The disk is full: cannot write x."),
        ("EACCES", "No permission to write x."),
        ("EROFS", "No permission to write x."),
        ("EEXIST", "x cannot be made: a file of that name is in the way."),
        ("EIO", "Cannot write x: Input/output error."),
    ],
)
def test_other_system_errors(code, message):
    import errno

    def fail() -> None:
        with storage.disk_errors(Path("x")):
            number = getattr(errno, code)
            raise OSError(number, os.strerror(number))

    assert refused(fail, ResourceError).splitlines()[0] == message


@root_only
def test_a_folder_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    assert refused(lambda: storage.make_folder(tmp_path), ResourceError) == (
        f"No permission to write {tmp_path}.\nChoose another folder with --out."
    )


def test_a_file_in_the_way(tmp_path):
    (tmp_path / "runs").write_text("")
    for folder in (tmp_path / "runs", tmp_path / "runs" / "reviews"):
        assert refused(lambda folder=folder: storage.make_folder(folder), ResourceError) == (
            f"{folder} cannot be made: a file of that name is in the way.\nChoose another folder with --out."
        )


def test_make_folder_leaves_it_empty(tmp_path):
    assert storage.make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert names(tmp_path / "a" / "b") == []


# -- nouns ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "noun",
    [SLICE, Finding("typo", "warning", "„ä“ \u2028 \x00", 3), RowCounts(9, 1, 5, {"no text": 3})],
)
def test_a_noun_survives_its_file(tmp_path, noun):
    storage.write_noun(tmp_path / "noun.json", noun)
    assert storage.read_noun(tmp_path / "noun.json", type(noun), made_by="evaluate") == noun


def test_the_file_says_what_it_is(tmp_path):
    storage.write_noun(tmp_path / "noun.json", SLICE)
    document = json.loads((tmp_path / "noun.json").read_text())
    assert document["schema"] == {"noun": "Slice", "version": storage.SCHEMA_VERSION}
    assert document["accuracy"] == {"value": 0.5, "low": 0.25, "high": 0.75}


def test_no_file_is_written_for_a_value_that_json_cannot_hold(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        storage.write_noun(tmp_path / "noun.json", Interval(float("nan"), 0, 1))
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "{} is damaged: Expecting value: line 1 column 1 (char 0).\nRun `textlora evaluate` again."),
        ("[1]", "{} is not a Slice file of textlora."),
        ('"text"', "{} is not a Slice file of textlora."),
        ('{"schema": {"noun": "Run", "version": 1}}', "{} is not a Slice file of textlora."),
        ('{"schema": {"noun": "Slice", "version": 2}}', "{} has schema version 2; this textlora reads version 1.\nUpdate textlora."),
        ('{"schema": {"noun": "Slice", "version": 0}}', "{} has schema version 0; this textlora reads version 1.\nMake the run again with this version."),
        ('{"schema": {"noun": "Slice"}}', "{} has schema version None; this textlora reads version 1.\nMake the run again with this version."),
        ('{"schema": {"noun": "Slice", "version": 1}, "name": "x", "rows": 1, "accuracy": {"value": "much"}}', "{} is damaged: accuracy.value: Input should be a valid number, unable to parse string as a number.\nRun `textlora evaluate` again."),
    ],
)  # fmt: skip
def test_files_that_are_not_what_was_written(tmp_path, content, message):
    path = tmp_path / "noun.json"
    path.write_text(content)
    assert refused(lambda: storage.read_noun(path, Slice, made_by="evaluate")) == message.format(path)


def test_a_noun_that_is_not_there(tmp_path):
    path = tmp_path / "noun.json"
    assert refused(lambda: storage.read_noun(path, Slice, made_by="evaluate")) == (
        f"{path} does not exist.\n`textlora evaluate` writes it: run that first."
    )


def test_a_noun_that_is_not_text_or_not_a_file(tmp_path):
    path = tmp_path / "noun.json"
    path.write_bytes(b"\xff")
    assert refused(lambda: storage.read_noun(path, Slice, made_by="evaluate")).startswith(f"{path} is damaged: 'utf-8'")
    path.unlink()
    path.mkdir()
    assert (
        refused(lambda: storage.read_noun(path, Slice, made_by="evaluate")) == f"{path} cannot be read: Is a directory."
    )


# -- fingerprints and the cache ------------------------------------------------------------------


def test_fingerprints_know_where_a_part_ends():
    prints = [storage.fingerprint(parts) for parts in (["ab", "c"], ["a", "bc"], ["abc"], [], [""], ["", ""])]
    assert len(set(prints)) == len(prints)
    assert storage.fingerprint(["ä", b"x"]) == storage.fingerprint(["ä".encode(), "x"])
    assert storage.fingerprint(["\ud800"]) != storage.fingerprint(["\ud801"])


def test_file_fingerprint_is_the_usual_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert (
        storage.file_fingerprint(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"TEXTLORA_CACHE": "/data/cache"}, "/data/cache"),
        ({"TEXTLORA_CACHE": "~/models"}, "/home/me/models"),
        ({"XDG_CACHE_HOME": "/var/cache"}, "/var/cache/textlora"),
        ({"XDG_CACHE_HOME": ""}, "/home/me/.cache/textlora"),
        ({}, "/home/me/.cache/textlora"),
    ],
)
def test_the_cache_folder(monkeypatch, variables, folder):
    for name in ("TEXTLORA_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/me")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert storage.cache_folder() == Path(folder)
