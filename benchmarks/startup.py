"""Start-up: how long a command takes before it does anything; fresh processes, taking turns.

    python -m benchmarks.startup [--quick] [--json] [--data FILE] [--rounds N]

Help and import must not load torch; that is checked, not timed. Prediction is one text by a
classifier with the embedded model, trained on the data for an epoch before.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import command, reviews
from benchmarks.measuring import Cost, Leg, interleave, middle, run_child, summary, tell

ROUNDS = 15
TRAINED = 64
TEXT = "A quiet, moving film."
HEAVY = ("torch", "transformers", "peft")
LOADED = f"import sys, json; print(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))"
RUN = "import sys\nfrom textlora.__main__ import run\nsys.argv = {!r}\ntry:\n    run()\nexcept SystemExit:\n    pass\n"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, show, write the result file."""
    options = command.parse("startup", __doc__ or "", rounds=ROUNDS, arguments=arguments)
    with tempfile.TemporaryDirectory() as scratch:
        run = _run_folder(options.data, Path(scratch))
        commands = _commands(run)
        loaded = _loaded(run)
        costs = interleave({name: _leg(words) for name, words in commands.items()}, options.rounds)
    figures = {f"{name}_seconds": middle(found, "wall") for name, found in costs.items()}
    for name, heavy in loaded.items():
        tell(f"{name} loads {', '.join(heavy) or 'none of ' + ', '.join(HEAVY)}")
    light = not {"torch"} & {*loaded["import_textlora"], *loaded["help"]}
    figures["torch_free"] = float(light)
    shown = {name: " ".join([Path(words[0]).name, *words[1:]]) for name, words in commands.items() if name != "predict"}
    details = {
        "legs": summary(costs),
        "loads": loaded,
        "commands": shown | {"predict": f"textlora predict RUN {TEXT!r}"},
    }
    command.finish(options, figures, details)
    if not light:
        raise SystemExit("import textlora or textlora --help loads torch")


def _run_folder(data: Path, scratch: Path) -> Path:
    tell("training a classifier for one epoch …")
    return reviews.trained(reviews.load(data, TRAINED), scratch)


def _commands(run: Path) -> dict[str, list[str]]:
    script = Path(sys.executable).with_name("textlora")
    textlora = [str(script)] if script.exists() else [sys.executable, "-m", "textlora"]
    return {
        "python": [sys.executable, "-c", "pass"],
        "import_textlora": [sys.executable, "-c", "import textlora"],
        "help": [*textlora, "--help"],
        "import_torch": [sys.executable, "-c", "import torch"],
        "predict": [*textlora, "predict", str(run), TEXT],
    }


def _leg(words: Sequence[str]) -> Leg:
    def once(_: int) -> Cost:
        return run_child(words).cost

    return once


def _loaded(run: Path) -> dict[str, list[str]]:
    """Return which heavy libraries each command has loaded when it ends."""
    programs = {
        "import_textlora": "import textlora\n",
        "help": RUN.format(["textlora", "--help"]),
        "predict": RUN.format(["textlora", "predict", str(run), TEXT]),
    }
    return {
        name: list(run_child([sys.executable, "-c", program + LOADED]).answer) for name, program in programs.items()
    }


if __name__ == "__main__":
    main()
