"""The page in a real browser, over the real server and a tiny real model."""

from __future__ import annotations

import csv
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ToyRun
from textlora import scoring
from textlora.decision import Abstention, Decision
from textlora.interval import Interval

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
KEY = "correct-horse-battery"
TEXT = "the film was dull, but i loved the music 😀 <script>document.title = 'broken'</script> and the lovely end"
STATIC = Path(scoring.__file__).parents[1 if Path(scoring.__file__).name == "__init__.py" else 0] / "serving" / "static"

in_browser = pytest.mark.skipif(
    find_spec("playwright") is None or CHROMIUM is None,
    reason="needs Playwright (pip install playwright) and Chromium (apt install chromium)",
)


@pytest.fixture(scope="module")
def classifiers(toy_run: ToyRun) -> dict[str, Any]:
    """One set of weights under several decisions: as trained, with doubts, with a threshold, with several labels."""
    from textlora.classifier import Classifier

    plain = Classifier.from_pretrained(toy_run.folder)
    unsure = Abstention(error_rate=0.05, least_probability=1e-9, rows=100, coverage=Interval(0.95, 0.9, 1.0))
    shifted = Decision(goal="f1", positive="positive", threshold=0.8, rows=100, reached={})
    bundles = {
        "reviews": plain.bundle,
        "unsure": replace(plain.bundle, abstention=unsure),
        "shifted": replace(plain.bundle, decision=shifted),
        "several": replace(plain.bundle, task="multi_label", thresholds=(0.001, 0.999)),
    }
    return {name: Classifier(plain.model, plain.tokenizer, bundle) for name, bundle in bundles.items()}


@contextmanager
def serving(classifiers: dict[str, Any], folder: Path, *, key: str | None = None) -> Iterator[str]:
    """Serve in a thread of this process; yields the address."""
    from textlora.serving.limits import Limits
    from textlora.serving.options import Access
    from textlora.serving.running import background
    from textlora.serving.service import Service

    folders = {name: folder if name == "reviews" else folder / name for name in classifiers}
    service = Service(classifiers, folders, Limits(characters=5_000, file_bytes=100_000), budget=512)
    with background(service, Access(port=0, api_key=key.encode() if key else None)) as server:
        yield f"{server.url}/"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with a report that tries what a report must not."""
    found = tmp_path_factory.mktemp("run")
    report = "<!doctype html><style>p { color: rgb(1, 2, 3) }</style><title>Report</title><p>How good it is</p>"
    (found / "report.html").write_text(f"{report}<script>document.title = 'broken'</script>", encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def address(classifiers: dict[str, Any], folder: Path) -> Iterator[str]:
    """The server with four models."""
    with serving(classifiers, folder) as found:
        yield found


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests of the module."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@contextmanager
def opened(browser: Any, address: str, **options: Any) -> Iterator[Any]:
    """Open the page; whatever it complains about fails the test."""
    context = browser.new_context(**options)
    page = context.new_page()
    page.set_default_timeout(15_000)
    complaints: list[str] = []
    page.on("pageerror", lambda error: complaints.append(str(error)))
    # The browser notes every answer of 400 and above by itself.
    page.on("console", lambda note: complaints.append(note.text) if "Failed to load" not in note.text else None)
    page.on("dialog", lambda dialog: complaints.append(dialog.message))
    page.goto(address)
    yield page
    context.close()
    assert complaints == []


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, loaded."""
    with opened(browser, address) as found:
        found.wait_for_selector("#facts:not(:empty)")
        yield found


def classify(page: Any, text: str, *, model: str | None = None) -> None:
    if model:
        page.get_by_label("Model", exact=True).select_option(model)
    page.get_by_label("Text to classify").fill(text)
    page.get_by_role("button", name="Classify").click()
    answered(page)


def answered(page: Any) -> None:
    page.wait_for_selector("#result:not([hidden]):not(.old)[aria-busy=false]")


def bars(page: Any) -> dict[str, str]:
    rows = page.locator("#bars tbody tr").all()
    return {row.locator("th").inner_text(): row.locator("td.num").text_content() for row in rows}


@in_browser
def test_a_text_gets_label_probabilities_and_words(page, classifiers):
    classify(page, TEXT)
    (expected,) = classifiers["reviews"].predict([TEXT])
    assert page.locator("#verdict").inner_text().startswith(expected.label)
    assert bars(page) == {
        name: f"{100 * share:.1f} %"
        for name, share in sorted(expected.probabilities.items(), key=lambda each: -each[1])
    }
    widths = [bar.evaluate("bar => parseFloat(bar.style.width)") for bar in page.locator("#bars .fill").all()]
    assert widths == pytest.approx(
        [100 * share for share in sorted(expected.probabilities.values(), reverse=True)], abs=0.1
    )


@in_browser
def test_words_are_marked_where_they_stand_and_told_as_text(page, classifiers):
    from textlora import explanation

    classify(page, TEXT)
    (explained,) = classifiers["reviews"].explain([TEXT])
    pieces = [(text, level) for text, level in explanation.marked(TEXT, explained.spans) if level]
    marks = page.locator("#marked mark").all()
    classes = [f"{'for' if level > 0 else 'against'}{abs(level)}" for _, level in pieces]
    assert [(mark.inner_text(), mark.get_attribute("class")) for mark in marks] == [
        (text, name) for (text, _), name in zip(pieces, classes, strict=True)
    ]
    assert "without it" in marks[0].get_attribute("title")
    page.get_by_text("The words as a list").click()
    strongest = explained.words(explained.strongest[0])
    assert page.locator("#words tbody tr th").first.inner_text() == strongest
    assert strongest in page.locator("#spoken").text_content()


@in_browser
def test_markup_in_a_text_stays_text(page):
    classify(page, TEXT)
    assert page.locator("#marked").text_content() == TEXT
    assert page.locator("main script").count() == 0
    assert page.title() == "reviews – textlora"


@in_browser
def test_the_keyboard_alone_is_enough(page, classifiers):
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    page.keyboard.type("a lovely film")
    page.keyboard.press("Control+Enter")
    answered(page)
    assert page.locator("#verdict").inner_text().startswith(classifiers["reviews"].predict(["a lovely film"])[0].label)
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_selector("#marked mark, #no-words:not([hidden])")
    assert page.get_by_label("Text to classify").input_value() != "a lovely film"


@in_browser
def test_not_sure_is_said(page):
    classify(page, TEXT, model="unsure")
    assert page.locator("#verdict").inner_text() == "Not sure"
    assert re.match(r"It may be \w+ or \w+\. Best guess: \w+, [\d.]+ %\.", page.locator("#verdict-note").inner_text())
    assert page.locator("#bars tr.unsure").count() == 2
    assert page.locator("#spoken").text_content()


@in_browser
def test_several_labels_show_their_thresholds(page):
    classify(page, TEXT, model="several")
    assert bars(page)["negative"].endswith("given from 0.1 % on")
    assert page.locator("#bars .threshold").count() == 2
    assert page.locator("#verdict").inner_text() == "negative"
    page.get_by_label("Model", exact=True).select_option("shifted")
    assert not page.locator("#result").is_visible()
    classify(page, TEXT)
    assert page.locator("#bars .threshold").count() == 1


@in_browser
def test_a_cut_text_is_said_to_be_cut(page):
    long = "the story was long and " * 60
    page.get_by_label("Text to classify").fill(long)
    assert "tokens: more than the 64" in page.locator("#count").inner_text()
    classify(page, long)
    assert "not seen" in page.locator("#truncated").inner_text()


@in_browser
def test_what_cannot_be_classified_is_explained(page):
    page.get_by_role("button", name="Classify").click()
    assert "no text yet" in page.get_by_role("alert").filter(visible=True).inner_text()
    page.get_by_label("Text to classify").fill("x" * 5_001)
    page.get_by_role("button", name="Classify").click()
    page.get_by_text("A text may have 5,000 characters").wait_for()
    assert not page.locator("#result").is_visible()


@in_browser
def test_a_busy_server_is_waited_for(page):
    refused = []

    def busy(route):
        refused.append(route.request.url)
        if len(refused) == 1:
            route.fulfill(
                status=429, headers={"Retry-After": "1"}, body='{"error": "busy", "error_type": "overloaded"}'
            )
        else:
            route.continue_()

    page.route("**/predict", busy)
    page.get_by_label("Text to classify").fill("a fine film")
    page.get_by_role("button", name="Classify").click()
    page.get_by_text("The server is busy. Trying again in 1 s").wait_for()
    answered(page)
    assert len(refused) == 3


def write_csv(path: Path, rows: int = 400) -> Path:
    words = ["lovely", "dull", "the film", "awful", "great", "story"]
    lines = [f"{number},{words[number % 6]} {words[number % 5]}" for number in range(rows)]
    path.write_text("\n".join(["id,review", *lines, f"{rows},", "1,2,3"]) + "\n", encoding="utf-8")
    return path


@in_browser
def test_a_file_is_scored_and_downloaded(page, classifiers, tmp_path):
    source = write_csv(tmp_path / "my reviews.csv")
    expected = scoring.score_file(classifiers["reviews"], source, tmp_path / "expected.csv")
    page.get_by_label("Choose files").set_input_files(source)
    link = page.get_by_role("link", name="Download CSV")
    link.wait_for()
    assert page.locator(".job .state").inner_text() == "402 rows done."
    assert "1 row has no text" in page.locator(".job .notes").inner_text()
    assert (
        "1 broken row is left out of the result (line 403: too many cells)." in page.locator(".job .notes").inner_text()
    )
    shown = [row.locator("td.num").inner_text() for row in page.locator(".job tbody tr").all()]
    assert sum(int(text.split()[0]) for text in shown) == expected.scored == 400
    with page.expect_download() as download:
        link.click()
    assert download.value.suggested_filename == "my reviews.scored.csv"
    with Path(download.value.path()).open(encoding="utf-8") as mine, expected.out.open(encoding="utf-8") as theirs:
        rows, wanted = list(csv.DictReader(mine)), list(csv.DictReader(theirs))
    assert [row["prediction"] for row in rows] == [row["prediction"] for row in wanted]
    page.get_by_role("button", name="Delete from the server").click()
    page.get_by_role("button", name="Delete from the server").wait_for(state="hidden")


@in_browser
def test_wrong_files_get_a_clear_error(page, tmp_path):
    choose = page.get_by_label("Choose files")
    cases = {
        "numbers.csv": ("a,b\n1,2\n3,4\n", "Columns: a, b.\nName it above"),
        "scored.csv": ("review,prediction\na fine film,positive\n", "already has the column 'prediction'"),
        "letter.pdf": ("%PDF-1.4", "This kind of file is not read here; expected one of .csv .tsv .jsonl .parquet."),
        "letter.csv": ("%PDF-1.4", "letter.csv is a PDF document"),
        "large.csv": ("review\n" + "fine film\n" * 11_000, "The file has 0.1 MB; 0.1 MB is the most here."),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_text(content, encoding="utf-8")
        choose.set_input_files(tmp_path / name)
        trouble = page.locator(".job").first.get_by_role("alert")
        trouble.get_by_text(message).wait_for()
        assert "/tmp" not in trouble.inner_text()
        page.get_by_role("button", name="Remove").click()
    assert page.get_by_label("Column").is_visible()


@in_browser
def test_a_report_opens_without_any_rights(page, browser):
    with page.expect_popup() as popup:
        page.get_by_role("link", name="Report of this model").click()
    report = popup.value
    report.get_by_text("How good it is").wait_for()
    assert report.title() == "Report"
    colour = report.locator("p").evaluate("p => getComputedStyle(p).color")
    assert colour == "rgb(1, 2, 3)"
    page.get_by_label("Model", exact=True).select_option("unsure")
    assert not page.get_by_role("link", name="Report of this model").is_visible()


@in_browser
def test_a_key_is_asked_for_and_kept_in_memory_only(browser, classifiers, folder, tmp_path):
    with (
        serving({"reviews": classifiers["reviews"]}, folder, key=KEY) as address,
        opened(browser, address, accept_downloads=True) as page,
    ):
        for given in ("a-wrong-key-of-some-length", KEY):
            dialog = page.get_by_role("dialog", name="API key")
            dialog.get_by_label("Key", exact=True).fill(given)
            dialog.get_by_role("button", name="Use this key").click()
            if given != KEY:
                page.get_by_text("does not accept this key").wait_for()
        page.wait_for_selector("#facts:not(:empty)")
        assert not page.locator("#models").is_visible()
        classify(page, "a fine film")
        with page.expect_popup() as popup:
            page.get_by_role("link", name="Report of this model").click()
        popup.value.get_by_text("How good it is").wait_for()
        popup.value.reload()
        popup.value.get_by_text("good for one minute and one use").wait_for()
        page.get_by_label("Choose files").set_input_files(write_csv(tmp_path / "mine.csv", rows=3))
        with page.expect_download() as download:
            page.get_by_role("link", name="Download for Excel").click()
        assert download.value.suggested_filename == "mine.scored.excel.csv"
        kept = page.evaluate("() => JSON.stringify([localStorage.length, sessionStorage.length, document.cookie])")
        assert kept == '[0,0,""]'
        page.reload()
        page.get_by_role("dialog", name="API key").wait_for()
        page.keyboard.press("Escape")
        page.get_by_text("This server asks for an API key.").wait_for()


@in_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_shows_all_without_scrolling_sideways(browser, address, scheme):
    options = {"viewport": {"width": 390, "height": 844}, "color_scheme": scheme, "has_touch": True, "is_mobile": True}
    with opened(browser, address, **options) as page:
        page.wait_for_selector("#facts:not(:empty)")
        classify(page, f"{TEXT} {'w' * 300}")
        assert page.evaluate("() => document.documentElement.scrollWidth") == 390
        for button in page.locator("button:visible, .pick:visible").all():
            assert button.bounding_box()["height"] >= 44


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    lighter, darker = sorted((luminance(one), luminance(other)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_have_the_contrast_of_wcag_aa(scheme):
    roots = re.findall(r":root \{(.*?)\}", (STATIC / "page.css").read_text(encoding="utf-8"), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#\w{6})", roots[scheme]))
    texts = [("ink", "paper"), ("soft", "paper"), ("soft", "panel"), ("main", "paper"), ("on-main", "main")]
    texts += [
        ("on-main", "main-strong"),
        ("bad-text", "bad-panel"),
        ("note-text", "note-panel"),
        ("note-text", "paper"),
    ]
    assert {
        pair: contrast(colours[pair[0]], colours[pair[1]])
        for pair in texts
        if contrast(colours[pair[0]], colours[pair[1]]) < 4.5
    } == {}
    marks = [
        ("main", "panel"),
        ("rule-strong", "paper"),
        ("sure", "panel"),
        ("for-line", "paper"),
        ("against-line", "paper"),
    ]
    assert {
        pair: contrast(colours[pair[0]], colours[pair[1]])
        for pair in marks
        if contrast(colours[pair[0]], colours[pair[1]]) < 3
    } == {}


def test_the_page_needs_nothing_from_outside():
    for path in STATIC.iterdir():
        found = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(
            r"https?://|innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b| style=| on\w+=", found
        ), path
