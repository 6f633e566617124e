from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import zipfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from subprocess import run as run_process

import pytest
from PIL import Image

from prune_tool.pipeline.disagreements import THUMBNAIL_SIZE, sample_disagreements
from prune_tool.pipeline.results import Results, read_results
from prune_tool.pipeline.workspace import Workspace
from prune_tool.records import MeasuredReading
from prune_tool.report.html import write_report
from prune_tool.store.layout import RunFolder
from tests.report.conftest import Page, rendered
from tests.support import CLASSES, ask

HOSTILE = "<script>alert('1')</script>\"><img src=x onerror=alert(1)>&amp;"


def test_the_page_says_what_was_shipped_and_what_was_proven(page: Page, results: Results) -> None:
    exported, bench = results.exported, results.bench
    assert exported is not None
    assert bench is not None
    assert exported.sentence in page.text.replace("\u00a0", " ")
    assert "Certified" in page.text
    speed = next(t for t in bench.timings if t.contender == "kept" and t.batch_size == 1).speedup.median
    tiles = {tile.text.strip() for tile in page.all("dd", "value")}
    full, kept = results.analysis.full, exported.built.candidate
    assert {
        f"{speed:.1f}×",
        f"{full.macs / kept.macs:.1f}×",
        f"{100 * exported.certificate.test.kept.accuracy:.1f} %",
    } <= tiles


def test_every_candidate_is_on_every_figure_and_in_the_table(page: Page, results: Results) -> None:
    rows = [e for e in page.all("tr") if e.attributes.get("id", "").startswith("candidate-")]
    shown = {(c.reading, c.n_neurons) for c in results.candidates}
    assert results.exported is not None
    shipped = results.exported.built.candidate
    assert len(rows) == len(shown | {(shipped.reading, shipped.n_neurons)})
    for candidate in (*results.candidates, shipped):
        name = str(results.analysis.measured[candidate.reading].reading)
        assert any(name in row.text and f"{candidate.n_neurons:,} of " in row.text for row in rows)
    assert sum("shipped" in row.classes for row in rows) == 1
    plots = page.all("div", "plot")
    assert len(plots) == 8, "four costs, two sizes"
    for plot in plots:
        hits = [hit.attributes["href"] for hit in page.all("a", "hit") if hit.inside(plot)]
        assert hits == [f"#{row.attributes['id']}" for row in rows] + ["#full"]


def test_marks_lie_where_their_numbers_are(page: Page, results: Results) -> None:
    """On the first figure: right means more milliseconds on a log scale, up more accuracy."""
    import math

    from prune_tool.report.figures import shown_candidates

    plot = page.all("div", "plot")[0]
    styles = [hit.attributes["style"] for hit in page.all("a", "hit") if hit.inside(plot)]
    left, top = zip(*(map(float, re.findall(r"([\d.]+)%", style)) for style in styles), strict=True)
    full = results.analysis.full
    assert results.analysis.timed is not None
    latency = [*(c.latency_ms or 0 for c in shown_candidates(results)), results.analysis.timed.full_ms]
    accuracy = [*(c.val.accuracy for c in shown_candidates(results)), full.val.accuracy]
    for places, values in ((left, [math.log(ms) for ms in latency]), (top, accuracy)):
        far = max(range(len(values)), key=lambda i, v=values: abs(v[i] - v[0]))
        slope = (places[far] - places[0]) / (values[far] - values[0])
        assert (slope > 0) == (places is left)
        for place, value in zip(places, values, strict=True):
            assert place == pytest.approx(places[0] + slope * (value - values[0]), abs=0.01)


def test_nothing_is_loaded_and_nothing_runs(page: Page) -> None:
    csp = next(e for e in page.all("meta") if e.attributes.get("http-equiv") == "Content-Security-Policy")
    assert csp.attributes["content"] == "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
    assert not page.all("script")
    assert not page.all("iframe")
    for element in page.elements:
        assert not [name for name in element.attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "data", "xlink:href"):
            assert element.attributes.get(name, "#").startswith(("#", "data:")), element
    assert not re.search(r"https?:|url\(|@import|//[a-z]", page.source.replace("data:image", ""))


def test_whoever_cannot_see_it_is_told(page: Page) -> None:
    assert page.all("html")[0].attributes["lang"] == "en"
    assert page.all("title")[0].text.strip()
    assert len(page.all("h1")) == 1
    drawings = page.all("svg")
    assert len(drawings) > 4
    for drawing in drawings:
        assert drawing.attributes["role"] == "img"
        assert len(drawing.attributes["aria-label"]) > 20
    assert page.all("img")
    assert all("class" in image.attributes["alt"] for image in page.all("img"))
    assert all(head.attributes.get("scope") in {"col", "row", "colgroup"} for head in page.all("th"))
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len({*ids})
    targets = [link.attributes["href"][1:] for link in page.all("a")]
    targets += [label.attributes["for"] for label in page.all("label")]
    targets += [section.attributes["aria-labelledby"] for section in page.all("section")]
    assert {*targets} <= {*ids}
    labelled = {label.attributes["for"] for label in page.all("label")}
    assert {button.attributes["id"] for button in page.all("input")} == labelled


def test_every_cut_has_its_panel_and_its_row(page: Page, results: Results) -> None:
    cuts = {m.reading.cut for m in results.analysis.measured}
    panels = page.all("ul", "panels")[0]
    captions = [e.text for e in page.all("figcaption") if e.inside(panels)]
    assert len(captions) == len(cuts)
    table = next(e for e in page.all("div", "scroll") if "Redundancy" in e.attributes["aria-label"])
    rows = [e.text.strip() for e in page.all("th") if e.inside(table) and e.attributes["scope"] == "row"]
    assert {*rows} == cuts
    for measured in results.analysis.measured:
        assert f"{measured.critical_size:,} ± {measured.critical_size_std:.0f}" in table.text


def test_confusion_is_that_of_the_files(page: Page, results: Results) -> None:
    from sklearn.metrics import confusion_matrix

    seen = results.predictions
    assert seen is not None
    for table, predicted in zip(page.all("table", "matrix"), (seen.full, seen.kept), strict=True):
        counts = [int(e.text.replace(",", "")) for e in page.all("td") if e.inside(table) and e.text.strip()]
        assert counts == confusion_matrix(seen.labels, predicted, labels=range(3)).ravel().tolist()


def test_predictions_are_those_that_the_certificate_counts(results: Results, workspace: Workspace) -> None:
    seen, exported = results.predictions, results.exported
    assert seen is not None
    assert exported is not None
    outcomes = exported.certificate.test.evidence.outcomes  # type: ignore[union-attr]
    assert (len(seen.lost), len(seen.won)) == (outcomes.n_lost, outcomes.n_won)
    assert seen.rows == tuple(workspace.splits.test.tolist())
    assert seen.labels == tuple(workspace.source.labels[workspace.splits.test].tolist())
    differ = [i for i, (a, b) in enumerate(zip(seen.full, seen.kept, strict=True)) if a != b]
    assert sorted([*seen.lost, *seen.won, *seen.both_wrong]) == differ


def test_images_shown_are_small_copies_of_those_that_the_two_disagree_on(
    results: Results, workspace: Workspace
) -> None:
    seen = results.predictions
    assert seen is not None
    samples = sample_disagreements(workspace, results.run, results.record, seen)
    assert 0 < len(samples) <= 12
    assert len({s.row for s in samples}) == len(samples)
    for sample in samples:
        assert sample.full != sample.kept
        assert sample.label == workspace.source.labels[sample.row]
        image = Image.open(BytesIO(sample.jpeg))
        assert image.format == "JPEG"
        assert image.size == (sample.width, sample.height)
        assert max(image.size) <= THUMBNAIL_SIZE


def hostile(results: Results) -> Results:
    """The same run of classes, taps, model and images with hostile names."""

    def renamed(measured: MeasuredReading) -> MeasuredReading:
        taps = tuple(HOSTILE + tap for tap in measured.reading.taps)
        return replace(measured, reading=replace(measured.reading, taps=taps))

    record = replace(results.record, classes=(HOSTILE, "b", "c"), model=HOSTILE, data=HOSTILE, splits=HOSTILE)
    record = replace(record, request=replace(record.request, model=HOSTILE, data=HOSTILE))
    analysis = replace(results.analysis, measured=tuple(renamed(m) for m in results.analysis.measured))
    return replace(results, record=record, analysis=analysis, run=RunFolder(Path(HOSTILE)))


def test_names_are_shown_and_not_run(results: Results) -> None:
    plain, page = rendered(results), rendered(hostile(results))
    assert [e.tag for e in page.elements] == [e.tag for e in plain.elements]
    assert HOSTILE in page.all("h1")[0].text
    assert any(HOSTILE in e.text for e in page.all("th"))
    assert any(HOSTILE in e.attributes["aria-label"] for e in page.all("svg"))


def test_what_is_missing_is_said_with_the_command_that_makes_it(copied: RunFolder) -> None:
    """Following the page's own remedies, one after the other, completes it."""
    for path in (copied.certificate, copied.predictions, copied.bench, copied.report):
        path.unlink()
    done: list[str] = []
    while notices := (page := Page(_written(copied))).all("div", "notice"):
        command = next(e.text for e in page.all("code", "command") if e.inside(notices[0]))
        assert command not in done, notices[0].text
        program, *words = shlex.split(command)
        assert program == "prune-tool"
        answer = ask(*words, *(("--seconds", "0.1", "--starts", "0") if words[0] == "bench" else ()), "-q")
        assert answer.status in {0, 1}, answer.err
        done.append(command)
    assert [command.split()[1] for command in done] == ["export", "bench"]
    assert "Images that the two disagree on" in page.text


def _written(run: RunFolder) -> str:
    return write_report(run).path.read_text(encoding="utf-8")


def test_results_of_an_earlier_export_are_not_shown(copied: RunFolder) -> None:
    stored = json.loads(copied.predictions.read_text())
    copied.predictions.write_text(json.dumps(stored | {"model_sha256": "another"}))
    timed = json.loads(copied.bench.read_text())
    next(c for c in timed["contenders"] if c["name"] == "kept")["file_bytes"] += 1
    copied.bench.write_text(json.dumps(timed))
    results = read_results(copied)
    assert (results.predictions, results.bench) == (None, None)
    report = write_report(copied)
    assert [line.split(":")[0] for line in report.missing] == ["Predictions on the test images", "Latency of this file"]


@pytest.mark.parametrize("harm", ["gone", "changed"])
def test_images_that_are_gone_or_others_leave_the_rest_of_the_page(
    copied: RunFolder, images: Path, tmp_path: Path, harm: str
) -> None:
    record = json.loads(copied.run.read_text())
    record["request"]["data"] = str(tmp_path / "moved")
    copied.run.write_text(json.dumps(record))
    if harm == "changed":
        shutil.copytree(images, tmp_path / "moved")
        next((tmp_path / "moved" / CLASSES[0]).iterdir()).unlink()
    (missing,) = write_report(copied).missing
    assert missing.startswith("Images that the two disagree on: ")
    assert {"gone": "no such file", "changed": "images have changed"}[harm] in missing
    page = Page(copied.report.read_text(encoding="utf-8"))
    assert not page.all("img")
    assert page.all("table", "matrix")


def test_damaged_files_are_named(copied: RunFolder) -> None:
    from prune_tool.errors import RunError

    stored = json.loads(copied.predictions.read_text())
    copied.predictions.write_text(json.dumps(stored | {"kept": stored["kept"][1:]}))
    with pytest.raises(RunError, match=r"predictions\.json.*not of one length.*prune-tool export"):
        write_report(copied)


def test_balanced_accuracy_is_called_so(results: Results) -> None:
    record = replace(results.record, request=replace(results.record.request, metric="balanced-accuracy"))
    page = rendered(replace(results, record=record))
    assert "Frontier of balanced accuracy against cost" in page.text
    assert "validation balanced accuracy" in page.text.lower()
    assert "validation accuracy" not in page.text.lower()


def test_many_classes_are_listed_by_pair(results: Results) -> None:
    seen = results.predictions
    assert seen is not None
    record = replace(results.record, classes=(*CLASSES, *(f"other {i}" for i in range(20))))
    page = rendered(replace(results, record=record))
    assert not page.all("table", "matrix")
    table = next(e for e in page.all("div", "scroll") if e.attributes["aria-label"] == "Classes confused most")
    counts = [int(e.text) for e in page.all("td") if e.inside(table) and e.text.isdecimal()][1::2]
    wrong = sum(a != b for a, b in zip(seen.labels, seen.kept, strict=True))
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == wrong


def test_the_wheel_brings_the_page_s_parts(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    run_process(command, cwd=root, check=True, capture_output=True)
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name for name in wheel.namelist() if "/templates/" in name}
    here = root / "prune_tool" / "report" / "templates"
    assert packed == {f"prune_tool/report/templates/{path.name}" for path in here.iterdir()}
    assert len(packed) >= 8
