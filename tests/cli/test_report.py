"""The page about runs: what is on it, that no text of a file runs, and that a browser shows it."""

from __future__ import annotations

import base64
import hashlib
import html.parser
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from jaxrl_prefs.cli import report, shown
from jaxrl_prefs.errors import LoadError
from jaxrl_prefs.page import plots
from jaxrl_prefs.page.parts import Rows
from jaxrl_prefs.runs import signs
from jaxrl_prefs.runs.load import load_run

HOSTILE = "</script><script>window.stolen=1</script><img src=x onerror=window.stolen=1>"


class Elements(html.parser.HTMLParser):
    """The elements of a page and the text of its scripts."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[tuple[str, str]] = []
        self._kind: str | None = None
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))
        if tag == "script":
            self._kind = dict(attrs).get("type") or "script"
            self.scripts.append((self._kind, ""))

    def handle_endtag(self, tag: str) -> None:
        if tag == "script":
            self._kind = None

    def handle_data(self, data: str) -> None:
        if self._kind is not None:
            kind, text = self.scripts[-1]
            self.scripts[-1] = (kind, text + data)
        else:
            self.text += data


@pytest.fixture(scope="module")
def hostile_run(short_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of a run whose texts try to run as a script, with the files that others leave."""
    folder = tmp_path_factory.mktemp("hostile") / "run"
    shutil.copytree(short_run, folder)
    for name in ("config.json", "result.json"):
        content = json.loads((folder / name).read_text())
        for section in (content, content.get("run", {}), content.get("data", {})):
            for field in {"dataset", "name", "env", "score_kind"} & set(section):
                section[field] = HOSTILE
        (folder / name).write_text(json.dumps(content))
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        row["metrics"][HOSTILE] = 1.0
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    group = {"settings": {}, "policy": HOSTILE, "value": 12.5, "interval": [10.25, 14.75]}
    estimates = {"estimator": "fqe", "dataset": HOSTILE, "groups": [group], "signs": [HOSTILE]}
    (folder / "estimates.json").write_text(json.dumps(estimates))
    return folder


@pytest.fixture(scope="module")
def page(hostile_run: Path) -> Path:
    """The page about it."""
    pytest.importorskip("plotly", reason="the extra report is not installed")
    assert report.main(["report", str(hostile_run), "--html"]) == 0
    return hostile_run / "report.html"


def test_scores_and_estimates_are_on_it(page: Path, hostile_run: Path) -> None:
    text = Elements(page.read_text()).text
    result = json.loads((hostile_run / "result.json").read_text())
    for score in result["scores"]:
        assert f"{score:.1f}" in text
    low, high = result["score_ci"]
    assert f"{low:.1f} to {high:.1f}" in text
    assert "12.5" in text and "10.25 to 14.75" in text and "An estimate is not a score." in text
    assert signs.MEANINGS["q_uniform"] in text


def test_curves_are_those_of_the_files(page: Path, hostile_run: Path) -> None:
    figures = [json.loads(t) for kind, t in Elements(page.read_text()).scripts if "json" in kind]
    (scores,) = [each for each in figures if each["layout"]["showlegend"]]
    rows = [json.loads(x) for x in (hostile_run / "evaluations.jsonl").read_text().splitlines()]
    for place, seed in enumerate((0, 1)):
        mine = [row for row in rows if row["seed"] == seed]
        assert scores["data"][place]["name"] == f"seed {seed}"
        assert scores["data"][place]["x"] == [row["step"] for row in mine]
        assert scores["data"][place]["y"] == [row["score"] for row in mine]


def test_no_text_of_a_file_becomes_markup(page: Path) -> None:
    elements = Elements(page.read_text())
    assert "window.stolen=1" in elements.text  # it is shown, as text
    assert not [attributes for _, attributes in elements.found if "onerror" in attributes]
    assert not [tag for tag, _ in elements.found if tag == "img"]
    scripts = [text for kind, text in elements.scripts if kind == "script"]
    assert len(scripts) == 2  # the library's and the page's own
    (policy,) = [
        attributes["content"]
        for _, attributes in elements.found
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy is not None and policy.startswith("default-src 'none'; script-src 'sha256-")
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in policy


def test_nothing_comes_from_elsewhere(page: Path) -> None:
    for tag, attributes in Elements(page.read_text()).found:
        assert tag not in ("link", "iframe", "object", "base", "form")
        assert (attributes.get("src") or "data:").startswith("data:")
        assert "href" not in attributes


def test_labels_hold_no_markup_of_plotly() -> None:
    assert plots.plain("<b>x</b>") == "&lt;b&gt;x&lt;/b&gt;"
    assert json.loads(plots.in_html({"a": "</script>&"})) == {"a": "</script>&"}
    assert not re.search("[<>&]", plots.in_html({"a": "</script>&"}))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "report takes the folder of a run"),
        (["nowhere"], "nowhere is no folder"),
        (["."], "no run below ."),
        ([".", "--html=no/such/file.html"], "there is no folder"),
    ],
)
def test_wrong_use(
    words: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert report.main(["report", *words]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_run_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "config.json").write_text('{"run": []}')
    assert report.main(["report", str(tmp_path)]) == 2
    assert f"{tmp_path} holds a damaged run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("metrics.jsonl", '{"step": 2, "seed": 0}\n', "metrics.jsonl: a row has no 'metrics'"),
        ("config.json", '"zz"', "config.json: 'versions' is no section"),
        ("metrics.jsonl", None, "metrics.jsonl is not a regular file"),
        ("config.json", None, "config.json is not a regular file"),
    ],
)
def test_what_is_damaged_is_named(
    file: str,
    text: str | None,
    message: str,
    short_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "run"
    ignored = shutil.ignore_patterns("checkpoints", "phases")
    shutil.copytree(short_run, folder, ignore=ignored)
    path = folder / file
    if text is None:
        path.unlink()
        os.mkfifo(path)
    elif file == "config.json":
        content = json.loads(path.read_text())
        path.write_text(json.dumps({**content, "versions": json.loads(text)}))
    else:
        path.write_text(path.read_text() + text)
    assert report.main(["report", str(folder)]) == 2
    error = capsys.readouterr().err
    assert message in error and str(folder) in error and "Error(" not in error
    if file == "config.json" and text is None:
        with pytest.raises(LoadError, match="is not a regular file"):
            load_run(folder)


def test_the_data_are_shown_in_the_environment_of_the_run(short_run: Path) -> None:
    """The file names none: the run's --env did."""
    (run,) = shown.found([short_run])
    for env, told in (
        ("Pendulum-v1", "Pendulum-v1, at most 200 steps"),
        *(("none", "-"), ("unknown-v0", "-"), ("nowhere:Mine-v0", "-")),
    ):
        about = {**run.about, "run": {**run.about["run"], "env": env}}
        (section,) = shown._data([], [run._replace(about=about)])
        (part,) = section.parts
        assert isinstance(part, Rows) and ["evaluated in", told] in list(part.rows)
        asked = any("without the run's environment" in note for note in part.notes)
        assert asked == (env == "unknown-v0")


def test_two_environments_of_one_dataset_have_a_table_each(short_run: Path) -> None:
    (run,) = shown.found([short_run])

    def evaluated(env: str, result: str) -> shown.Shown:
        about = {**run.about, "run": {**run.about["run"], "env": env}}
        return run._replace(about=about, result={**run.result, "env": result})

    there, nowhere = evaluated("Pendulum-v1", "Pendulum-v1"), evaluated("none", "")
    (section,) = shown._data([], [there, nowhere, there])
    told = [dict(part.rows)["evaluated in"] for part in section.parts if isinstance(part, Rows)]
    assert told == ["Pendulum-v1, at most 200 steps", "-"]


def test_damaged_estimates_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "estimates.json"
    for text in ("nonsense", '{"groups": 5}', '{"groups": [1]}'):
        path.write_text(text)
        (section,) = shown._estimates([tmp_path], [])
        (words,) = section.parts
        assert f"{path} is damaged and is left out" in str(words)


# --- In a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    program = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "chrome"))), None
    )
    driver = shutil.which("chromedriver")
    if program is None or driver is None:
        pytest.skip("no chromium with chromedriver (Debian: apt install chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    opened = webdriver.Chrome(options=options, service=webdriver.ChromeService(driver))
    yield opened
    opened.quit()


def wait_for(browser: Any, expression: str) -> Any:
    end = time.monotonic() + 60
    while not (found := browser.execute_script(f"return {expression}")):
        assert time.monotonic() < end, expression
        time.sleep(0.1)
    return found


def test_a_browser_hovers_and_switches(page: Path, browser: Any) -> None:
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.by import By

    width = {"width": 390, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", width)
    browser.get(page.as_uri())
    browser.execute_script("document.querySelector('.plot').scrollIntoView()")  # drawn when seen
    wait_for(browser, "document.querySelector('.plot .scatterlayer .trace') !== null")
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 390
    place = browser.find_element(By.CSS_SELECTOR, ".plot .nsewdrag")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", place)
    half = place.size["width"] // 2
    ends = [(x, y) for x in (1 - half, half - 1) for y in range(-100, 101, 10)]
    for x, y in ends:  # the lines' ends are at the plot's edges
        ActionChains(browser, duration=0).move_to_element_with_offset(place, x, y).perform()
        time.sleep(0.12)
        if browser.execute_script("return document.querySelector('.hoverlayer .hovertext')"):
            break
    assert "seed" in wait_for(browser, "document.querySelector('.hoverlayer').textContent")
    visible = "document.querySelector('.plot').data.map(line => line.visible)"
    browser.find_element(By.CSS_SELECTOR, ".seeds button").click()
    assert browser.execute_script(f"return {visible}") == ["legendonly", True]
    browser.find_element(By.CSS_SELECTOR, ".seeds button").click()
    assert browser.execute_script(f"return {visible}") == [True, True]
    assert browser.execute_script("return window.stolen") is None
    assert [each for each in browser.get_log("browser") if each["level"] == "SEVERE"] == []
