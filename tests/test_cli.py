"""The command line as a user meets it: output, exit codes, messages, no traceback."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from tests.conftest import EXAMPLE
from textlora import amounts, cli, progress

TINY = (
    "--set",
    "training.epochs=1",
    "--set",
    "training.batch_size=16",
    "--set",
    "compute.precision=fp32",
    "--set",
    "text.max_length=32",
)


@dataclass(frozen=True)
class Result:
    """What a call left behind."""

    code: int
    out: str
    err: str


def call(*arguments: object, stdin: str = "") -> Result:
    """Run the command line in this process."""
    out, err = io.StringIO(), io.StringIO()
    before = sys.argv, sys.stdin, sys.stdout, sys.stderr
    sys.argv = ["textlora", *map(str, arguments)]
    sys.stdin, sys.stdout, sys.stderr = io.StringIO(stdin), out, err
    try:
        code = cli.run()
    finally:
        sys.argv, sys.stdin, sys.stdout, sys.stderr = before
    assert "Traceback" not in err.getvalue()
    return Result(code, out.getvalue(), err.getvalue())


def fresh(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command line in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "textlora", *map(str, arguments)], capture_output=True, text=True, check=False
    )


class TestHelp:
    def test_help_loads_neither_torch_nor_other_heavy_libraries(self):
        code = (
            "import sys; sys.argv = ['textlora', '--help']; from textlora import cli; assert cli.run() == 0; "
            "print([name for name in ('torch', 'transformers', 'peft', 'sklearn', 'matplotlib', 'pyarrow', 'scipy') if name in sys.modules])"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "[]"

    def test_import_loads_no_torch(self):
        code = "import sys, textlora; print(textlora.__version__, 'torch' in sys.modules, 'pydantic' in sys.modules)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.split() == ["0.1.0", "False", "False"]

    def test_names_every_verb(self):
        result = call("--help")
        assert result.code == 0
        verbs = (
            "fit",
            "prepare",
            "plan",
            "train",
            "evaluate",
            "decide",
            "compare",
            "report",
            "predict",
            "export",
            "doctor",
            "clean",
            "tune",
            "adapt",
            "audit",
            "push",
            "serve",
        )
        for verb in verbs:
            assert f"\n  {verb} " in result.out

    def test_without_a_verb_shows_help(self):
        assert call().out == call("--help").out

    def test_version(self):
        assert call("--version").out == "textlora 0.1.0\n"

    def test_settings_lists_all_with_meaning(self):
        out = call("plan", "--settings").out
        assert "lora.r " in out
        assert "Rank." in out
        assert "training.learning_rate" in out


class TestUsage:
    def test_unknown_verb(self):
        result = call("fitt", "x.csv")
        assert result.code == 2
        assert "No such command 'fitt'" in result.err

    def test_unknown_option(self):
        result = call("fit", "x.csv", "--lable", "y")
        assert result.code == 2
        assert "No such option: --lable" in result.err

    def test_missing_argument(self):
        assert call("fit").code == 2
        result = call("plan")
        assert result.code == 2
        assert result.err == "error: plan needs a run folder or a data file.\nFor instance: textlora plan reviews.csv\n"

    def test_unknown_settings_all_at_once(self):
        result = call("fit", EXAMPLE, "--set", "lora.rank=4", "--set", "training.epoch=2", "--set", "seed")
        assert result.code == 2
        assert result.err == (
            "error: Cannot use --set:\n"
            "  - There is no setting 'lora.rank'. Did you mean 'lora.r'?\n"
            "  - There is no setting 'training.epoch'. Did you mean 'training.epochs'?\n"
            "  - 'seed' has no '='; write NAME=VALUE, for instance lora.r=16.\n"
            "`textlora plan --settings` lists every setting with its meaning.\n"
        )

    def test_a_bug_leaves_a_log_and_no_traceback(self, monkeypatch):
        monkeypatch.setattr("textlora.api.report_folder", lambda folder: 1 // 0)
        result = call("report", "runs/x")
        assert result.code == 1
        assert result.err.startswith(
            "error: This is a bug of textlora: ZeroDivisionError: integer division or modulo by zero\n"
        )
        log = Path(result.err.split("The details are in ")[1].split(";")[0])
        assert "1 // 0" in log.read_text(encoding="utf-8")
        log.unlink()


class TestFit:
    def test_every_stage_is_shown_and_a_repeat_takes_over(self, toy_csv, tiny_model, tmp_path):
        out = tmp_path / "run"
        first = call("fit", toy_csv, "--base-model", tiny_model, "--out", out, *TINY)
        assert first.code == 0, first.err
        for words in ("120 rows read = ", "recipe default", "training loss", "TF-IDF", "report.html"):
            assert words in first.out
        for name in (
            "dataset.json",
            "plan.toml",
            "run.json",
            "evaluation.json",
            "report.html",
            "report.md",
            "model_card.md",
        ):
            assert (out / name).exists(), name
        adapter = (out / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns
        second = call("fit", toy_csv, "--base-model", tiny_model, "--out", out, *TINY)
        assert second.code == 0, second.err
        assert (out / "adapter" / "adapter_model.safetensors").stat().st_mtime_ns == adapter

    def test_groups_times_and_leaked_rows_from_the_file_to_the_report(self, toy_csv, tiny_model, tmp_path):
        lines = toy_csv.read_text().splitlines()
        data, test = tmp_path / "toys.csv", tmp_path / "test.csv"
        data.write_text(
            "\n".join([f"{lines[0]},author,day", *(f"{line},a{n // 4},{n}" for n, line in enumerate(lines[1:]))])
        )
        train = lines[1:3] + [
            line.upper().replace("IVE", "ive").replace("POSIT", "posit").replace("NEGAT", "negat")
            for line in lines[3:9]
        ]
        more = [
            f"{'good great' if n % 2 else 'dull bad'} number {n} of them,{'posi' if n % 2 else 'nega'}tive"
            for n in range(12)
        ]
        test.write_text("\n".join([lines[0], *train[2:], *more]))
        out = tmp_path / "run"
        options = ("--group", "author", "--time", "day", "--test", test, "--base-model", tiny_model, "--out", out)
        done = call("fit", data, *options, *TINY)
        assert done.code == 0, done.err
        for words in (
            "Split by the time 'day': train 0 to",
            "groups of 'author' stay whole",
            "without leaked rows",
            "6 of the rows are near-duplicates of training rows (",
        ):
            assert words in done.out, words
        assert "Without leaked rows" in (out / "report.html").read_text()
        assert "--group COLUMN" not in done.err

    def test_another_run_in_the_folder_is_not_overwritten_unasked(self, toy_csv, tiny_model, tmp_path):
        out = tmp_path / "run"
        assert call("prepare", toy_csv, "--base-model", tiny_model, "--out", out).code == 0
        before = (out / "dataset.json").read_bytes()
        refused = call("prepare", toy_csv, "--base-model", tiny_model, "--out", out, "--set", "seed=7")
        assert refused.code == 2
        assert refused.err == (
            f"error: {out / 'dataset.json'} was made from other data or options.\n"
            "Choose another folder with --out, or replace the run in it with --overwrite.\n"
        )
        assert (out / "dataset.json").read_bytes() == before
        assert (
            call("prepare", toy_csv, "--base-model", tiny_model, "--out", out, "--set", "seed=7", "--overwrite").code
            == 0
        )

    def test_stages_one_by_one_as_json(self, toy_csv, tiny_model, tmp_path):
        out = tmp_path / "run"
        prepared = json.loads(call("prepare", toy_csv, "--base-model", tiny_model, "--out", out, "--json").out)
        assert prepared["dataset"]["counts"]["read"] == 120
        planned = json.loads(call("plan", out, "--base-model", tiny_model, *TINY, "--json").out)
        assert planned["plan"]["settings"]["training"]["epochs"] == 1
        trained = json.loads(call("train", out, "--json").out)
        assert trained["run"]["epochs"] == 1
        scored = json.loads(call("evaluate", out, "--split", "validation", "--json").out)
        assert scored["evaluation"]["split"] == "validation"
        assert Path(json.loads(call("report", out, "--json").out)["report"]).exists()


class TestPredict:
    def test_texts(self, example_run):
        result = call("predict", example_run, "A quiet, moving film.", "[bold]Dull[/bold] [/red] and loud.")
        assert result.code == 0
        lines = result.out.splitlines()
        assert len(lines) == 2
        assert lines[0].endswith("A quiet, moving film.")
        assert lines[1].endswith("[bold]Dull[/bold] [/red] and loud.")

    def test_standard_input(self, example_run):
        result = call("predict", example_run, stdin="Lovely.\n\nAwful.\n")
        assert [line.split()[-1] for line in result.out.splitlines()] == ["Lovely.", "Awful."]

    def test_json(self, example_run):
        found = json.loads(call("predict", example_run, "Lovely.", "--json").out)["predictions"][0]
        assert set(found["probabilities"]) == {"negative", "positive"}
        assert sum(found["probabilities"].values()) == pytest.approx(1)

    def test_file(self, example_run, tmp_path):
        out = tmp_path / "scored.csv"
        result = call("predict", example_run, EXAMPLE, "--out", out)
        assert result.code == 0, result.err
        head = out.read_text(encoding="utf-8").splitlines()[0]
        assert head == "review,sentiment,prediction,probability,probability_negative,probability_positive,truncated"

    def test_a_file_without_out_is_told_apart_from_a_text(self, example_run):
        result = call("predict", example_run, EXAMPLE)
        assert result.code == 2
        assert (
            result.err == f"error: {EXAMPLE} is a file.\nName the file to write the predictions to: --out scored.csv\n"
        )

    def test_no_such_run(self, tmp_path):
        result = call("predict", tmp_path / "none", "x")
        assert result.code == 2
        assert result.err == (
            f"error: There is no folder {tmp_path / 'none'}.\n"
            "Give the run folder that `textlora fit` or `textlora train` made.\n"
        )


def test_python_m_textlora_works():
    done = fresh("--version")
    assert (done.returncode, done.stdout) == (0, "textlora 0.1.0\n")


class TestThreads:
    @pytest.mark.parametrize(
        ("given", "expected"),
        [
            ({}, "1000"),
            ({"GOMP_SPINCOUNT": "5"}, "5"),
            ({"OMP_WAIT_POLICY": "ACTIVE"}, "None"),
        ],
    )
    def test_waiting_threads_sleep_early_unless_told_otherwise(self, given, expected):
        code = (
            "import os, sys; from textlora import __main__, cli; cli.run = lambda: print(os.environ.get('GOMP_SPINCOUNT'));"
            "__main__.run()"
        )
        names = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
        environment = {name: value for name, value in os.environ.items() if name not in names}
        done = subprocess.run(
            [sys.executable, "-c", code], env=environment | given, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == expected


class TestBars:
    def bars(self, width=120):
        """What a terminal would be sent, and the reporter that sends it."""

        class Terminal(io.StringIO):
            def isatty(self):
                return True

        stream = Terminal()
        return stream, progress.Reporter(Console(file=stream, force_terminal=True, width=width, markup=False))

    def test_with_and_without_a_known_total(self):
        stream, reporter = self.bars()
        with reporter.live():
            reporter("read", 1200, 0)
            reporter("train", 30, 1500, "loss 0.5")
            reporter("train", 31, 1500, "[bold]")
            time.sleep(0.15)  # two refreshes
        for shown in ("1,200", "/1,500", "[bold]"):
            assert shown in stream.getvalue()

    def test_forced_colours_make_no_terminal(self):
        stream = io.StringIO()
        reporter = progress.Reporter(Console(file=stream, force_terminal=True, markup=False, highlight=False))
        with reporter.live():
            reporter("train", 2, 2)
        assert stream.getvalue() == "train: 2/2 after 0 s\n"


@pytest.mark.parametrize(
    ("done", "elapsed", "expected", "left"),
    [
        (0, 0.0, 100.0, 100.0),  # nothing measured yet: as the plan says
        (10, 30.0, 100.0, 0.5 * 270 + 0.5 * 90),  # halfway to trusting the measurement
        (50, 60.0, 100.0, 60.0),  # measured alone
        (50, 60.0, None, 60.0),
        (0, 5.0, None, None),
        (100, 100.0, 100.0, 0.0),
    ],
)
def test_the_time_left_is_the_plans_corrected_by_what_is_measured(done, elapsed, expected, left):
    assert progress.seconds_left(done, 100, elapsed, expected) == (left if left is None else pytest.approx(left))


def test_without_a_total_nobody_knows_how_long_it_takes():
    assert progress.seconds_left(5, 0, 10.0, 100.0) is None


@pytest.mark.parametrize(
    ("text", "gigabytes"), [("4GB", 4.0), ("500 MB", 0.5), ("1.5g", 1.5), ("4", None), ("GB", None), ("4TB", None)]
)
def test_sizes_are_read(text, gigabytes):
    assert amounts.gigabytes(text) == gigabytes


@pytest.mark.parametrize(
    ("text", "minutes"), [("20m", 20.0), ("1h30m", 90.0), ("90s", 1.5), ("2 h", 120.0), ("20", None), ("", None)]
)
def test_times_are_read(text, minutes):
    assert amounts.minutes(text) == minutes


def test_wrong_limits_are_named_together(tmp_path):
    done = call("plan", str(tmp_path), "--memory-limit", "much", "--time-limit", "5")
    assert done.code == 2
    assert "--memory-limit is 'much', expected a size such as 4GB or 500MB" in done.err
    assert "--time-limit is '5', expected a time such as 20m or 1h30m" in done.err
