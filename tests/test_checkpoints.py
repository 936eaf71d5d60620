"""Manifests: only whole checkpoints of the same plan and data count."""

from __future__ import annotations

import json
import shutil

import pytest

from textlora import checkpoints
from textlora.checkpoints import MANIFEST, Checkpoint, Seal

MARK = Seal(plan="p" * 64, dataset="d" * 64, seconds=12.5, cpu_seconds=20.25)


def make(root, step, *, mark=MARK, sealed=True):
    folder = root / f"checkpoint-{step}"
    (folder / "inner").mkdir(parents=True)
    (folder / "adapter_model.safetensors").write_bytes(bytes(range(200)))
    (folder / "inner" / "optimizer.pt").write_bytes(b"moments" * step)
    (folder / "empty.txt").write_bytes(b"")
    if sealed:
        checkpoints.seal(folder, mark)
    return folder


def newest(root):
    return checkpoints.newest(root, plan=MARK.plan, dataset=MARK.dataset)


def manifest(folder, change):
    path = folder / MANIFEST
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def truncate(folder):
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def flip_a_bit(folder):
    file = folder / "adapter_model.safetensors"
    content = bytearray(file.read_bytes())
    content[77] ^= 1
    file.write_bytes(content)


DAMAGES = {
    "truncated": truncate,
    "changed": flip_a_bit,
    "a file is missing": lambda folder: (folder / "inner" / "optimizer.pt").unlink(),
    "the empty file is missing": lambda folder: (folder / "empty.txt").unlink(),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "half a manifest": lambda folder: (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:100]),
    "the manifest is a list": lambda folder: (folder / MANIFEST).write_text("[]"),
    "the manifest is not UTF-8": lambda folder: (folder / MANIFEST).write_bytes(b"\xff\xfe{"),
    "files are a list": lambda folder: manifest(folder, lambda document: document.update(files=["x"])),
    "a file has no digest": lambda folder: manifest(
        folder, lambda document: document["files"].update({"empty.txt": [0]})
    ),
    "no plan": lambda folder: manifest(folder, lambda document: document.pop("plan")),
    "another version": lambda folder: manifest(folder, lambda document: document["schema"].update(version=99)),
    "all files are gone": lambda folder: [
        shutil.rmtree(path) if path.is_dir() else path.unlink() for path in folder.iterdir()
    ],
}


class TestSeal:
    def test_what_was_sealed_is_read(self, tmp_path):
        folder = make(tmp_path, 30)
        assert checkpoints.read(folder) == Checkpoint(folder, 30, MARK)

    def test_the_manifest_lists_every_file_but_itself(self, tmp_path):
        folder = make(tmp_path, 1)
        checkpoints.seal(folder, MARK)  # again, over the first one
        files = json.loads((folder / MANIFEST).read_text())["files"]
        assert sorted(files) == ["adapter_model.safetensors", "empty.txt", "inner/optimizer.pt"]
        assert files["empty.txt"] == [0, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"]

    @pytest.mark.parametrize("damage", list(DAMAGES))
    def test_a_damaged_one_is_none(self, tmp_path, damage):
        folder = make(tmp_path, 30)
        DAMAGES[damage](folder)
        assert checkpoints.read(folder) is None


class TestNewest:
    def test_the_highest_step_wins_not_the_highest_name(self, tmp_path):
        for step in (900, 1000, 99):
            make(tmp_path, step)
        assert newest(tmp_path).step == 1000

    @pytest.mark.parametrize("damage", list(DAMAGES))
    def test_a_damaged_one_gives_way_to_the_one_before(self, tmp_path, damage):
        make(tmp_path, 10)
        DAMAGES[damage](make(tmp_path, 20))
        assert newest(tmp_path).step == 10

    def test_an_unsealed_one_does_not_count(self, tmp_path):
        make(tmp_path, 10, sealed=False)
        assert newest(tmp_path) is None

    @pytest.mark.parametrize("other", [Seal("x", MARK.dataset, 0, 0), Seal(MARK.plan, "x", 0, 0)])
    def test_another_plan_or_data_set_does_not_count(self, tmp_path, other):
        make(tmp_path, 20, mark=other)
        assert newest(tmp_path) is None
        make(tmp_path, 10)
        assert newest(tmp_path).step == 10

    def test_other_folders_are_no_checkpoints(self, tmp_path):
        make(tmp_path, 10).rename(tmp_path / "checkpoint-best")
        (tmp_path / "checkpoint-7").write_text("a file")
        assert newest(tmp_path) is None

    def test_no_folder_at_all(self, tmp_path):
        assert newest(tmp_path / "none") is None


class TestRotate:
    def names(self, root):
        return sorted(path.name for path in root.iterdir())

    def test_the_newest_and_the_best_stay(self, tmp_path):
        for step in (10, 20, 30, 100):
            make(tmp_path, step)
        checkpoints.rotate(tmp_path, keep=2, best="/somewhere/else/checkpoint-10")
        assert self.names(tmp_path) == ["checkpoint-10", "checkpoint-100", "checkpoint-30"]

    def test_without_a_best_only_the_newest_stay(self, tmp_path):
        for step in (10, 20, 30):
            make(tmp_path, step)
        checkpoints.rotate(tmp_path, keep=2, best=None)
        assert self.names(tmp_path) == ["checkpoint-20", "checkpoint-30"]

    def test_clear_deletes_checkpoints_and_nothing_else(self, tmp_path):
        make(tmp_path, 10)
        (tmp_path / "runs").mkdir()
        checkpoints.clear(tmp_path)
        assert self.names(tmp_path) == ["runs"]
