"""The notebook for Colab runs from end to end here, and is stored as a notebook should be."""

from __future__ import annotations

import re
import shutil
import zipfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

from tests.conftest import ROOT
from textlora import checkpoints, training

NOTEBOOK = ROOT / "notebooks" / "textlora_colab.ipynb"


def read():
    return nbformat.read(NOTEBOOK, as_version=4)


def cell(notebook, ident):
    (found,) = [each for each in notebook.cells if each.id == ident]
    return found


def with_parameters(notebook, **values):
    """Put a cell with other values behind the one tagged ``parameters``."""
    (place,) = [number for number, each in enumerate(notebook.cells) if "parameters" in each.metadata.get("tags", [])]
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    names = re.findall(r"^(\w+) = ", notebook.cells[place].source, re.MULTILINE)
    assert set(values) <= set(names)
    notebook.cells.insert(place + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    return notebook


def run(notebook, folder: Path):
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": folder}}).execute()
    return notebook


def printed(notebook, ident: str) -> str:
    outputs = cell(notebook, ident).outputs
    text = "".join(output.get("text", "") for output in outputs if output.output_type == "stream")
    return re.sub(r"\x1b\[[\d;]*m", "", text)  # a notebook shows colours


def errors(notebook) -> list[str]:
    return [
        output.evalue for each in notebook.cells for output in each.get("outputs", []) if output.output_type == "error"
    ]


QUICK = {"BASE_MODEL": "embedded", "SETTINGS": "training.epochs=1 text.max_length=64", "RUN": "runs/mine"}


@pytest.fixture(scope="module")
def executed(tmp_path_factory):
    """The notebook, executed on the shipped example with a folder in Drive's place."""
    folder = tmp_path_factory.mktemp("notebook")
    changes = {"DATA": "not there.csv", "USE_DRIVE": True, "DRIVE_FOLDER": str(folder / "drive" / "mine")}
    return run(with_parameters(read(), **QUICK, **changes), folder), folder


class TestExecution:
    def test_no_cell_fails(self, executed):
        assert errors(executed[0]) == []

    def test_each_step_says_what_it_did(self, executed):
        notebook, _ = executed
        assert "Best here  device " in printed(notebook, "doctor")
        assert "There is no file 'not there.csv'. This is the example" in printed(notebook, "data")
        assert "movie_reviews.csv: 613 rows read" in printed(notebook, "prepare")
        assert "Estimate: " in printed(notebook, "plan")
        assert "best validation score" in printed(notebook, "train")
        assert re.search(r"accuracy +0\.\d{4} \[", printed(notebook, "evaluate"))
        assert len(re.findall(r"^(positive|negative) +0\.\d{3} ", printed(notebook, "predict"), re.MULTILINE)) == 2

    def test_the_report_is_shown_in_a_frame_without_rights(self, executed):
        notebook, _ = executed
        (shown,) = [output.data["text/html"] for output in cell(notebook, "report").outputs]
        assert shown.startswith('<div><iframe sandbox srcdoc="&lt;!doctype html&gt;')
        assert "<script" not in shown
        assert "Accuracy" in shown or "accuracy" in shown

    def test_the_archive_holds_the_classifier_and_no_data(self, executed):
        notebook, folder = executed
        assert "runs/mine.zip" in printed(notebook, "download")
        with zipfile.ZipFile(folder / "runs" / "mine.zip") as archive:
            names = archive.namelist()
            archive.extractall(folder / "elsewhere")
        assert "mine/adapter/adapter_model.safetensors" in names
        assert "mine/report.html" in names
        assert not [name for name in names if "checkpoint" in name or name.endswith(".parquet")]
        from textlora.classifier import Classifier

        assert Classifier.from_pretrained(folder / "elsewhere" / "mine", device="cpu").predict(["fine"])
        assert (folder / "drive" / "mine.zip").exists()

    def test_whole_checkpoints_are_in_drive(self, executed):
        _, folder = executed
        found = checkpoints.list_folders(folder / "drive" / "mine" / "checkpoints")
        assert found
        assert all(checkpoints.read(each) for each in found)

    @pytest.mark.slow
    def test_after_a_disconnect_it_goes_on_from_drive(self, executed):
        _, folder = executed
        before = training.load_run(folder / "runs" / "mine")
        shutil.rmtree(folder / "runs")
        changes = {"DATA": "not there.csv", "USE_DRIVE": True, "DRIVE_FOLDER": str(folder / "drive" / "mine")}
        again = with_parameters(read(), **QUICK, **changes)
        last = [each.id for each in again.cells].index("train")
        again.cells = [each for each in again.cells[: last + 1] if each.id != "doctor"]
        run(again, folder)
        after = training.load_run(folder / "runs" / "mine")
        assert after.history == before.history
        assert after.plan_fingerprint == before.plan_fingerprint


class TestTrouble:
    def test_a_step_that_fails_stops_the_notebook_with_its_own_words(self, tmp_path):
        (tmp_path / "mine.csv").write_text("a,b\n1,2\n", encoding="utf-8")
        notebook = with_parameters(read(), **QUICK, DATA="mine.csv")
        notebook.cells = [each for each in notebook.cells if each.id != "doctor"]
        with pytest.raises(CellExecutionError):
            run(notebook, tmp_path)
        assert "error: " in printed(notebook, "prepare")
        assert errors(notebook) == ["This step has stopped (exit code 3); the lines above say why and what to do."]
        assert cell(notebook, "plan").execution_count is None

    def test_a_stop_saves_the_state(self, tmp_path):
        """The stop button interrupts the kernel; the command gets one Ctrl-C and ends in its own way."""
        notebook = read()
        code = (
            "import os, threading\n"
            "threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
            "call(sys.executable, '-c', 'import time\\ntry: time.sleep(30)\\nexcept KeyboardInterrupt: print(\"saved\")')"
        )
        notebook.cells = [
            cell(notebook, "settings"),
            cell(notebook, "install"),
            nbformat.v4.new_code_cell(code, id="stop"),
        ]
        run(notebook, tmp_path)
        assert "saved" in printed(notebook, "stop")


class TestStored:
    def test_it_is_valid_and_clean(self):
        notebook = read()
        nbformat.validate(notebook)
        assert [each for each in notebook.cells if each.get("outputs") or each.get("execution_count")] == []
        assert len({each.id for each in notebook.cells}) == len(notebook.cells)

    def test_colab_gives_it_a_t4(self):
        metadata = read().metadata
        assert metadata.accelerator == "GPU"
        assert metadata.colab.gpuType == "T4"

    def test_no_paths_of_a_machine_but_colabs(self):
        text = NOTEBOOK.read_text(encoding="utf-8")
        assert re.findall(r"/(?:home|root|Users|tmp|work)/", text) == []
        assert set(re.findall(r"(?<![\w.:/*-])/\w+/", text)) <= {"/content/"}

    def test_drive_is_off_unless_asked_for(self):
        assert "USE_DRIVE = False" in cell(read(), "settings").source
