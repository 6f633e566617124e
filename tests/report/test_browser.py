"""The page in a real browser: it asks nothing of a network, fits a phone, can be read, and is reached by keyboard."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from prune_tool.store.layout import RunFolder

selenium = pytest.importorskip("selenium", reason="needs selenium")

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None or DRIVER is None, reason="needs Chromium and chromedriver"),
]

DESKTOP, PHONE = (1280, 900), (390, 844)
FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)

CONTRAST = """
const canvas = document.createElement("canvas").getContext("2d", {willReadFrequently: true});
function rgba(colour) {  // whatever the notation, painted and read back
  canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
  const [r, g, b, a] = canvas.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255];
}
function over(top, below) { return [0, 1, 2].map(i => top[i] * top[3] + below[i] * (1 - top[3])).concat(1); }
function background(element) {
  const layers = [];
  for (let e = element; e; e = e.parentElement) layers.push(rgba(getComputedStyle(e).backgroundColor));
  return layers.reverse().reduce((below, top) => over(top, below), [255, 255, 255, 1]);
}
function luminance(c) {
  const [r, g, b] = c.slice(0, 3).map(v => { v /= 255; return v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4; });
  return .2126 * r + .7152 * g + .0722 * b;
}
const found = [];
const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walk.nextNode()) {
  const e = walk.currentNode.parentElement, text = walk.currentNode.textContent.trim();
  if (!text || !e.checkVisibility()) continue;
  const style = getComputedStyle(e), below = background(e);
  const ink = over(rgba(e instanceof SVGElement ? style.fill : style.color), below);
  const [a, b] = [luminance(ink), luminance(below)].sort((x, y) => y - x);
  found.push([(a + .05) / (b + .05), text.slice(0, 40), e.tagName]);
}
return found;
"""


class Browser:
    """Chromium with a page open, seen at a size and in a colour scheme."""

    def __init__(self, driver: Any) -> None:
        self.driver = driver

    def open(self, page: Path, size: tuple[int, int], scheme: str = "light", media: str = "screen") -> None:
        screen = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size == PHONE}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": media, "features": features})
        self.driver.get(page.as_uri())

    def run(self, script: str, *args: object) -> Any:
        return self.driver.execute_script(script, *args)

    def log(self, kind: str) -> list[dict[str, Any]]:
        return list(self.driver.get_log(kind))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield Browser(driver)
    driver.quit()


@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_but_the_file_itself_is_asked_for(browser: Browser, run: RunFolder, size: tuple[int, int]) -> None:
    browser.log("performance")
    browser.open(run.report, size)
    events = [json.loads(entry["message"])["message"] for entry in browser.log("performance")]
    sent = [e["params"] for e in events if e["method"] == "Network.requestWillBeSent"]
    asked = [each["request"]["url"] for each in sent if each["documentURL"] == run.report.as_uri()]
    assert run.report.as_uri() in asked, "the log works"
    assert [url for url in asked if url != run.report.as_uri() and not url.startswith("data:")] == []
    assert not browser.log("browser"), "no complaints, of a broken policy neither"
    assert browser.run("return [...document.images].every(i => i.complete && i.naturalWidth > 0)")


@pytest.mark.parametrize("size", [DESKTOP, PHONE, (320, 640)], ids=["desktop", "phone", "small phone"])
def test_the_page_is_no_wider_than_the_screen(browser: Browser, run: RunFolder, size: tuple[int, int]) -> None:
    browser.open(run.report, size)
    assert browser.run("return document.documentElement.scrollWidth") <= size[0]
    hits = browser.run("return [...document.querySelectorAll('.hit')].filter(h => h.checkVisibility()).length")
    for i in range(hits):
        left, right, width = browser.run(
            "const hit = [...document.querySelectorAll('.hit')].filter(h => h.checkVisibility())[arguments[0]];"
            "hit.focus(); const card = hit.querySelector('.card').getBoundingClientRect();"
            "return [card.left, card.right, card.width]",
            i,
        )
        assert width > 100
        assert left >= 0
        assert right <= size[0]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_all_text_stands_out_from_what_is_behind_it(
    browser: Browser, run: RunFolder, size: tuple[int, int], scheme: str
) -> None:
    browser.open(run.report, size, scheme)
    browser.run("document.querySelectorAll('.hit')[0].focus()")
    found = browser.run(CONTRAST)
    assert len(found) > 100
    assert [text for text in found if text[0] < 4.5] == []
    page = browser.run("return getComputedStyle(document.body).backgroundColor")
    assert (page == "rgb(255, 255, 255)") == (scheme == "light")


def test_print_is_dark_on_light_whatever_the_screen_is(browser: Browser, run: RunFolder) -> None:
    browser.open(run.report, DESKTOP, "dark", media="print")
    assert browser.run("return getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert [text for text in browser.run(CONTRAST) if text[0] < 4.5] == []


def test_every_point_is_reached_by_keyboard_and_shows_its_card(browser: Browser, run: RunFolder) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(run.report, DESKTOP)
    expected = browser.run(
        "return [...document.querySelectorAll('.hit')].filter(h => h.checkVisibility()).map(h => h.textContent)"
    )
    assert expected
    reached = []
    browser.run("document.querySelector('#cost-1').focus()")
    for _ in range(len(expected)):
        browser.driver.switch_to.active_element.send_keys(Keys.TAB)
        shown = browser.run(
            "const e = document.activeElement, card = e.querySelector('.card');"
            "return card && card.checkVisibility() ? e.textContent : null"
        )
        reached.append(shown)
    assert reached == expected
    assert all("prune-tool export" in text for text in reached[:-1])
    browser.driver.switch_to.active_element.send_keys(Keys.ENTER)
    assert browser.run("return document.querySelector(':target').id") == "full"


def test_another_cost_is_one_key_away(browser: Browser, run: RunFolder) -> None:
    from selenium.webdriver.common.keys import Keys

    browser.open(run.report, DESKTOP)
    titles = "return [...document.querySelectorAll('.tabs svg')].filter(s => s.checkVisibility())[0].ariaLabel"
    assert "latency" in browser.run(titles)
    browser.run("document.querySelector('#cost-1').focus()")
    browser.driver.switch_to.active_element.send_keys(Keys.ARROW_RIGHT)
    assert "multiply-accumulates" in browser.run(titles)
