"""The browser page, in headless Chromium: the same answer as ``predict``, and no request to anywhere else."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from prune_tool.pipeline.analyze import Analyzed
from prune_tool.pipeline.export import Exported
from prune_tool.pipeline.predict import predict
from tests.support import texture, write_colour_classifier

PAGE = Path(__file__).parents[2] / "examples" / "browser"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
DRIVER = shutil.which("chromedriver")

lacking = [
    name
    for name, is_there in {
        "Chromium": CHROMIUM,
        "chromedriver": DRIVER,
        "examples/browser/node_modules (npm ci)": (PAGE / "node_modules" / "onnxruntime-web").is_dir(),
    }.items()
    if not is_there
]
pytestmark = [pytest.mark.browser, pytest.mark.skipif(bool(lacking), reason=f"no {', '.join(lacking)}")]


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture(scope="module")
def site(exported: Exported, analyzed: Analyzed, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page as its README says: beside it node_modules and the shipped file; here other files too."""
    folder = tmp_path_factory.mktemp("site")
    for name in ("index.html", "page.css", "page.js", "metadata.js"):
        shutil.copy(PAGE / name, folder)
    (folder / "node_modules").symlink_to(PAGE / "node_modules")
    shutil.copy(analyzed.run.model, folder / "model.onnx")
    foreign = onnx.load(analyzed.run.model)
    helper.set_model_props(foreign, {})
    onnx.save(foreign, folder / "foreign.onnx")
    (folder / "short.onnx").write_bytes(analyzed.run.model.read_bytes()[:1000])
    write_colour_classifier(
        folder / "graph.onnx",
        {"prune_tool.preprocess": "graph"},
        kind=TensorProto.UINT8,
        shape=["batch", "height", "width", 3],
    )
    return folder


@pytest.fixture(scope="module")
def origin(site: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(site))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "window-size=900,760"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


def visit(browser: Any, address: str) -> str:
    """Open the page and wait until it can take an image or has said why not; gives what it says."""
    from selenium.webdriver.support.wait import WebDriverWait

    browser.get(address)
    done = "const e = document.getElementById('about'); return e.className || !e.textContent.startsWith('Loading')"
    WebDriverWait(browser, 120).until(lambda page: page.execute_script(done))
    about: str = browser.find_element("id", "about").text
    return about


def classify(browser: Any, image: Path) -> dict[str, tuple[float, float]]:
    """Probability and logit of each class that the page names, best first."""
    from selenium.webdriver.support.wait import WebDriverWait

    browser.find_element("id", "image").send_keys(str(image))
    WebDriverWait(browser, 60).until(lambda page: page.find_element("id", "timing").text)
    script = "return [...document.querySelectorAll('#classes li')].map(e => ({...e.dataset}))"
    rows = browser.execute_script(script)
    return {row["name"]: (float(row["probability"]), float(row["logit"])) for row in rows}


def by_predict(model: Path, image: Path) -> dict[str, tuple[float, float]]:
    guesses = predict(model, [image]).predictions[0].guesses
    return {guess.name: (guess.probability, guess.logit) for guess in guesses}


def test_an_image_of_the_input_size_gets_the_same_logits(browser: Any, origin: str, site: Path, tmp_path: Path) -> None:
    image = tmp_path / "rows.png"
    Image.fromarray(texture("rows", np.random.default_rng(8))).save(image)
    about = visit(browser, origin)
    assert about.startswith("3 classes")
    assert "the file keeps" in about, "the certificate"
    found, expected = classify(browser, image), by_predict(site / "model.onnx", image)
    assert list(found) == list(expected)
    np.testing.assert_allclose(list(found.values()), list(expected.values()), rtol=1e-4, atol=1e-4)


def test_a_photograph_gets_the_same_class(browser: Any, origin: str, site: Path, tmp_path: Path) -> None:
    image = tmp_path / "large.jpg"
    large = Image.fromarray(texture("stripes", np.random.default_rng(2))).resize((256, 200), Image.Resampling.BICUBIC)
    large.save(image, quality=95)
    visit(browser, origin)
    found, expected = classify(browser, image), by_predict(site / "model.onnx", image)
    assert next(iter(found)) == next(iter(expected))
    best = next(iter(expected))
    assert found[best][0] == pytest.approx(expected[best][0], abs=0.1)


def test_a_file_with_the_recipe_inside_gets_the_pixels_as_they_are(
    browser: Any, origin: str, site: Path, tmp_path: Path
) -> None:
    image = tmp_path / "wide.png"
    pixels = np.random.default_rng(1).integers(0, 256, (33, 71, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(image)
    visit(browser, f"{origin}/?model=graph.onnx")
    found = classify(browser, image)
    logits = [found[name][1] for name in ("red", "green", "blue")]
    np.testing.assert_allclose(logits, pixels.mean(axis=(0, 1)), rtol=1e-4)
    assert found.keys() == by_predict(site / "graph.onnx", image).keys()


@pytest.mark.parametrize(
    ("model", "message"),
    [("foreign.onnx", "does not name its classes"), ("short.onnx", "cut short"), ("absent.onnx", "There is no absent")],
)
def test_what_is_wrong_with_a_file_is_said(model: str, message: str, browser: Any, origin: str) -> None:
    assert message in visit(browser, f"{origin}/?model={model}")
    assert not browser.find_element("id", "image").is_enabled()


def test_an_image_that_is_none_is_said(browser: Any, origin: str, tmp_path: Path) -> None:
    (tmp_path / "no.png").write_bytes(b"no image")
    visit(browser, origin)
    assert classify(browser, tmp_path / "no.png") == {}
    assert "cannot be classified" in browser.find_element("id", "timing").text


def test_nothing_is_asked_of_anyone_else(browser: Any, origin: str) -> None:
    browser.get_log("browser")
    visit(browser, origin)
    asked = browser.execute_script("return performance.getEntriesByType('resource').map(e => e.name)")
    assert any(name.endswith(".wasm") for name in asked)
    assert all(name.startswith((origin, "data:", "blob:")) for name in asked), asked
    assert not [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
