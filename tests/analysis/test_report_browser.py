"""The page in Chromium: no errors, no requests to the network, every chart is drawn, and the filters work."""

import json

import pytest

from analysis.__main__ import main
from tests.fixtures import chromium, make_records

pytestmark = [pytest.mark.browser, pytest.mark.skipif(chromium.PROGRAM is None, reason="Chromium is not installed")]


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    """URL of a report of two models, two configurations and two budgets, with four samples of each problem."""
    out = tmp_path_factory.mktemp("browser")
    models = "r1-distill-qwen-1.5b,r1-distill-qwen-14b"
    arguments = ["--models", models, "--configs", "tp1,tp1-ngram", "--budgets", "1024,4096", "--samples", "4"]
    make_records.main([str(out / "results"), *arguments, "--problems", "30"])
    assert main(["report", str(out / "results"), "--out", str(out / "report"), "--page-only"]) == 0
    return (out / "report" / "index.html").as_uri()


CHARTS = (
    "JSON.stringify([...document.querySelectorAll('.plot')].map(p => p.querySelectorAll('svg path, svg line').length))"
)
WIDER = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
POINTS = "document.querySelectorAll('#accuracy-latency svg .mark-symbol path').length"


@pytest.mark.parametrize(("width", "dark"), [(1440, False), (390, False), (1440, True)])
def test_every_chart_is_drawn_without_error_or_request(page: str, width: int, dark: bool) -> None:
    """There are no console errors, the only request is the page, every chart has marks, and nothing exceeds the screen."""

    async def look(tab: chromium.Page) -> None:
        await tab.open(page, width=width, dark=dark)
        assert tab.errors == []
        assert [url for url in tab.requests if not url.startswith(("data:", "blob:"))] == [page]
        state = await tab.evaluate("window.thinkload")
        assert state["failed"] == 0
        assert state["drawn"] >= 20
        assert min(json.loads(await tab.evaluate(CHARTS))) > 5
        assert not await tab.evaluate(WIDER)

    chromium.visit(look)


def test_filters_hide_data_and_show_all_restores_it(page: str) -> None:
    """Deselecting a value removes its points, its panels and its rows of the table."""

    async def use(tab: chromium.Page) -> None:
        await tab.open(page, width=1440)
        everything = await tab.evaluate(POINTS)
        rows = "[...document.querySelectorAll('#summary tbody tr')].filter(r => !r.hidden).length"
        assert await tab.evaluate(rows) == 8
        click = "document.querySelector('.chip input[name={}][value=\"{}\"]').click()"
        wait = "new Promise(done => setTimeout(done, 600))"
        await tab.evaluate(click.format("config", "tp1-ngram"))
        await tab.evaluate(wait)
        assert await tab.evaluate(rows) == 4
        assert 0 < await tab.evaluate(POINTS) < everything
        await tab.evaluate(click.format("model", "DeepSeek-R1-Distill-Qwen-14B"))
        await tab.evaluate(wait)
        assert await tab.evaluate("document.querySelectorAll('#accuracy .panels > div:not([hidden])').length") == 1
        await tab.evaluate("document.getElementById('reset').click()")
        await tab.evaluate(wait)
        assert await tab.evaluate(POINTS) == everything
        assert await tab.evaluate(rows) == 8
        assert tab.errors == []

    chromium.visit(use)


def test_the_csv_of_the_button_evaluates_nothing_in_a_spreadsheet(page: str) -> None:
    """Words that begin a formula have an apostrophe before them, as in the CSV files, and numbers have none."""
    words = ["=cmd()", "+sum(1)", "-1+cmd()", "@a", '=a,"b"', "\t=x", "-0.5", "+7", "tp1"]
    quoted = ["'=cmd()", "'+sum(1)", "'-1+cmd()", "'@a", '"\'=a,""b"""', "'=x", "-0.5", "+7", "tp1"]
    click = f"""(async () => {{
      const cells = [...document.querySelectorAll('#summary tbody tr')[0].cells];
      for (const [i, word] of {json.dumps(words)}.entries()) {{ delete cells[i].dataset.v; cells[i].textContent = word; }}
      const made = new Promise(done => {{ const before = URL.createObjectURL; URL.createObjectURL = (blob) => {{ done(blob); return before(blob); }}; }});
      document.querySelector('.csv[data-table=summary]').click();
      return (await made).text();
    }})()"""

    async def use(tab: chromium.Page) -> None:
        await tab.open(page, width=1440)
        csv = await tab.evaluate(click)
        assert csv.splitlines()[1].startswith(",".join(quoted) + ",")

    chromium.visit(use)


def test_paper_shows_the_lines_of_a_folded_notice(page: str) -> None:
    folded = "<div class=notice><details><summary>6 runs</summary>why</details></div>"
    shown = f"""(() => {{ document.querySelector("main").insertAdjacentHTML("beforeend", "{folded}");
      window.dispatchEvent(new Event("beforeprint")); return document.querySelectorAll(".notice details[open]").length; }})()"""

    async def use(tab: chromium.Page) -> None:
        await tab.open(page, width=1440)
        assert await tab.evaluate(shown) == 1

    chromium.visit(use)


def test_a_verdict_opens_its_manifest(page: str) -> None:
    """A click on a verdict opens the manifest of its run."""

    async def use(tab: chromium.Page) -> None:
        await tab.open(page, width=1440)
        await tab.evaluate("document.querySelector('#summary a[href^=\"#run-\"]').click()")
        assert await tab.evaluate("document.querySelectorAll('details[open]').length") == 1

    chromium.visit(use)
