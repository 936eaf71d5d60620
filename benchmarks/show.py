"""From result files to the README's table and the picture of speeds.

    python -m benchmarks.show [--quick]

With ``--quick`` the results of quick runs are shown, and neither README nor picture is touched: the
picture goes beside the results.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import picture
from benchmarks.command import QUICK_RESULTS, RESULTS, ROOT

README = ROOT / "README.md"
PICTURE = ROOT / "docs" / "images" / "speed.svg"
START, END = "<!-- benchmarks:start -->", "<!-- benchmarks:end -->"
Result = Mapping[str, Any]
Row = tuple[str, str]


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the table into the README and draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="show the results of quick runs")
    quick = parser.parse_args(arguments).quick
    results = read(QUICK_RESULTS if quick else RESULTS)
    if not results:
        raise SystemExit("There are no results yet; make bench measures them.")
    table = section(results)
    if quick:
        print(table)
    else:
        README.write_text(replaced(README.read_text(encoding="utf-8"), table), encoding="utf-8")
    target = QUICK_RESULTS / PICTURE.name if quick else PICTURE
    target.write_text(picture.draw(groups(results), _measured(results)), encoding="utf-8")
    print(f"drawn: {target.relative_to(ROOT)}")


def read(folder: Path) -> dict[str, Result]:
    """Return the result files in a folder by benchmark."""
    found = (folder / f"{name}.json" for name in ROWS)
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in found if path.exists()}


def replaced(page: str, table: str) -> str:
    """Return the page with what stands between the markers replaced."""
    pattern = re.compile(f"{re.escape(START)}.*?{re.escape(END)}", re.DOTALL)
    if not pattern.search(page):
        raise SystemExit(f"README.md has no {START} and {END}.")
    return pattern.sub(lambda _: f"{START}\n{table}\n{END}", page)


def section(results: Mapping[str, Result]) -> str:
    """Return the README's part: picture, table, where it was measured."""
    lines = ["![Processor time per review](docs/images/speed.svg)", "", "| | | Made by |", "|---|---|---|"]
    for name, result in results.items():
        for what, value in ROWS[name](result):
            lines.append(f"| {what} | {value} | `{result['command']}` |")
    return "\n".join([*lines, "", f"{_measured(results)} {EXPLAINED}"])


EXPLAINED = (
    "*Times as fast* compares processor time per review, medians over rounds in which all take turns in one "
    "process; training and prediction are distilbert-base's shapes with random weights, on which timing does not "
    "depend. *Tuned* is the fastest we got out of plain Hugging Face and PEFT, settings chosen by trial on the machine. "
    "All raw values: [benchmarks/results](benchmarks/results)."
)


def _measured(results: Mapping[str, Result]) -> str:
    machines = {(found["machine"]["processor"], found["machine"]["threads"]) for found in results.values()}
    where = " and ".join(
        f"{processor}, {threads} thread{'s' * (threads > 1)}" for processor, threads in sorted(machines)
    )
    data = " and ".join(sorted({found["data"] for found in results.values()}))
    first = next(iter(results.values()))
    tokens = first.get("reviews", {}).get("mean_tokens")
    long = f" ({tokens} tokens on average)" if tokens else ""
    date = max(found["machine"]["date"] for found in results.values())[:10]
    return f"{where}; reviews of {data}{long}; {date}."


def _times(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"**{value:.1f} times as fast**" if value < 10 else f"**{value:.0f} times as fast**"


def _pair(result: Result, theirs: str, ours: str) -> str:
    legs = result["legs"]
    if theirs not in legs:
        return ""
    return f" ({_milliseconds(legs[theirs])} to {_milliseconds(legs[ours])} ms)"


def _milliseconds(leg: Mapping[str, float]) -> str:
    return f"{leg['cpu_ms']:,.{0 if leg['cpu_ms'] >= 100 else 1}f}"


def _train(result: Result) -> list[Row]:
    figures, base = result["figures"], result["distilbert-base"]
    growth, steps = figures["rss_growth"], result["memory"]["steps"]
    precision = base["settings"]["full"]["compute"]["precision"]
    return [
        (
            "Training, adapters in all layers, beside Trainer + PEFT with the usual recipe",
            _times(figures["full_vs_stock"]) + _pair(base, "stock", "full"),
        ),
        ("the same beside tuned Hugging Face + PEFT", _times(figures["full_vs_tuned"]) + _pair(base, "tuned", "full")),
        (
            "Three epochs of recipe `fast`, its pass through the frozen layers counted, beside the usual recipe",
            _times(figures["fast_vs_stock"]) + _pair(base, "stock", "fast"),
        ),
        (
            f"What the {precision} matrix products alone take, each at the best rate for its shape",
            f"{figures['floor_share']:.0%} of our time; all at the best rate there is: {figures['floor_share_peak']:.0%}",
        ),
        (
            f"Peak memory of training, default recipe, {steps} steps",
            f"{figures['peak_rss_gb']:.1f} GB; growth after step {result['memory']['settled_step']}: {growth:.1%}",
        ),
    ]


def _predict(result: Result) -> list[Row]:
    figures = result["figures"]
    beside = {
        "pipeline": 'Prediction beside `pipeline("text-classification")`',
        "tuned": "the same beside tuned Hugging Face",
        "onnx_int8": "the same beside ONNX Runtime in int8",
    }
    rows = [(what, _times(figures[f"vs_{name}"]) + _pair(result, name, "ours")) for name, what in beside.items()]
    share = (
        f"{figures['floor_share']:.0%} of our time; all at the best rate there is: {figures['floor_share_peak']:.0%}"
    )
    return [*rows, ("What the matrix products of prediction alone take", share)]


def _startup(result: Result) -> list[Row]:
    figures = result["figures"]
    return [
        (
            "`textlora --help`; `import textlora`; Python itself",
            "; ".join(f"{figures[f'{name}_seconds']:.2f} s" for name in ("help", "import_textlora", "python")),
        ),
        (
            "`textlora predict RUN TEXT`, of which `import torch` is",
            f"{figures['predict_seconds']:.1f} s; {figures['import_torch_seconds']:.1f} s",
        ),
    ]


def _scaling(result: Result) -> list[Row]:
    figures = result["figures"]
    sizes = [int(size) for size in result["by_size"]["predict"]]
    span = f"{sizes[0]:,} to {sizes[-1]:,} reviews"
    return [
        (
            f"{name} {span}: R² of time against their number; growth of peak memory",
            f"{figures[f'{key}_time_r2']:.4f}; {figures[f'{key}_rss_growth']:.0%}",
        )
        for key, name in (("predict", "Predicting"), ("train", "Training on"))
    ]


ROWS: dict[str, Callable[[Result], list[Row]]] = {
    "train": _train,
    "predict": _predict,
    "startup": _startup,
    "scaling": _scaling,
}


def groups(results: Mapping[str, Result]) -> list[picture.Group]:
    """Return what the picture shows: processor time per review of every leg."""
    found = []
    if "train" in results:
        found.append(_group("Training", results["train"]["distilbert-base"]["legs"], TRAINING_BARS))
    if "predict" in results:
        found.append(_group("Prediction", results["predict"]["legs"], PREDICTION_BARS))
    return found


TRAINING_BARS = {
    "stock": ("Trainer + PEFT, usual recipe", False),
    "tuned": ("Hugging Face + PEFT, tuned", False),
    "full_default": ("textlora, default recipe", True),
    "full": ("textlora, adapters as in the first", True),
    "fast": ("textlora, recipe fast, per epoch", True),
}
PREDICTION_BARS = {
    "pipeline": ("pipeline", False),
    "onnx_int8": ("ONNX Runtime, int8", False),
    "tuned": ("Hugging Face, tuned", False),
    "ours": ("textlora", True),
}


def _group(title: str, legs: Mapping[str, Any], bars: Mapping[str, tuple[str, bool]]) -> picture.Group:
    shown = [
        picture.Bar(label, legs[name]["cpu_ms"], ours=ours) for name, (label, ours) in bars.items() if name in legs
    ]
    return picture.Group(f"{title}, ms of processor time per review", tuple(shown))


if __name__ == "__main__":
    main()
