from __future__ import annotations

import xml.etree.ElementTree as ET
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prune_tool.report.chart import Axis, Chart, Line, Mark, Rule, around, quantity
from prune_tool.report.svg import NARROW, PANEL, WIDE, Frame, draw, places

positive = st.floats(1e-6, 1e12)


@pytest.mark.parametrize(
    ("value", "unit", "written"),
    [
        (28.3e6, "count", "28.3 M"),
        (999_600, "count", "1 M"),
        (1_234, "count", "1.23 k"),
        (64, "count", "64"),
        (4.1e9, "count", "4.1 G"),
        (0.843, "share", "84.3 %"),
        (0.001, "share", "0.1 %"),
        (1.0, "share", "100 %"),
        (0.55, "ms", "0.55 ms"),
        (1824.9, "ms", "1,825 ms"),
        (13.5e6, "bytes", "13.5 MB"),
        (64_000, "bytes", "64 kB"),
        (900, "bytes", "900 B"),
    ],
)
def test_quantities_as_readers_want_them(value: float, unit: str, written: str) -> None:
    assert quantity(value, unit) == written  # type: ignore[arg-type]


@given(low=positive, ratio=st.floats(1.05, 1e6), most=st.integers(2, 12), log=st.booleans())
def test_ticks_are_round_ascending_on_the_axis_and_not_too_many(low: float, ratio: float, most: int, log: bool) -> None:
    axis = Axis(title="", low=low, high=low * ratio, unit="count", log=log)
    ticks = axis.ticks(most)
    assert len(ticks) <= most
    assert [*ticks] == sorted({*ticks})
    assert all(low * (1 - 1e-9) <= tick <= low * ratio * (1 + 1e-9) for tick in ticks)
    assert all(-1e-9 <= axis.place(tick) <= 1 + 1e-9 for tick in ticks)
    if log:  # one digit and a power of ten, or one and a half
        assert all(float(f"{tick:.1e}") == pytest.approx(tick, rel=1e-9) for tick in ticks)
    if ratio > 10.001 and most >= 9:
        assert len(ticks) >= 2


def test_a_wide_frame_has_enough_ticks_to_read() -> None:
    for low, high in ((8e6, 4e8), (2.3e7, 3.9e8), (1e5, 3e10), (3e6, 4e6)):
        axis = Axis(title="", low=low, high=high, unit="count", log=True)
        assert 2 <= len(axis.ticks(9)) <= 9
    assert Axis(title="", low=0.42, high=0.79, unit="share").ticks(4) == pytest.approx((0.5, 0.6, 0.7))


def test_an_axis_around_values_holds_them_and_no_share_above_one() -> None:
    axis = around([0.9, 1.0], title="", unit="share")
    assert (axis.low < 0.9, axis.high) == (True, 1.0)
    log = around([1e6, 1e8], title="", unit="count", log=True)
    assert 0 < log.place(1e6) < log.place(1e7) < log.place(1e8) < 1
    assert log.place(1e7) == pytest.approx(0.5)
    single = around([0.5], title="", unit="share")
    assert 0 < single.place(0.5) < 1


@pytest.mark.parametrize("frame", [WIDE, NARROW, PANEL], ids=["wide", "narrow", "panel"])
def test_a_drawing_is_well_formed_and_holds_what_it_is_given(frame: Frame) -> None:
    chart = Chart(
        title="a <b> & c",
        summary='says "it"',
        x=Axis(title="x", low=1, high=100, unit="count", log=True),
        y=Axis(title="y", low=0, high=1, unit="share"),
        rules=(Rule(y=0.5, label="<half>"),),
        lines=(Line(points=((1, 0), (10, 0.5), (100, 1)), tone="accent", step=True),),
        marks=(Mark(x=10, y=0.5, tone="ink", shape="ring", label="<here>"),),
    )
    svg = ET.fromstring(draw(chart, frame))
    assert svg.attrib["aria-label"] == 'a <b> & c. says "it"'
    assert {"<half>", "<here>"} <= {text.text for text in svg.iter("text")}
    dot = next(e for e in svg.iter("circle") if "mark" in e.attrib["class"])
    width, height = map(float, svg.attrib["viewBox"].split()[2:])
    ((left, top),) = places(chart, frame)
    assert float(dot.attrib["cx"]) == pytest.approx(left * width / 100, abs=0.06)
    assert float(dot.attrib["cy"]) == pytest.approx(top * height / 100, abs=0.06)
    line = next(e for e in svg.iter("path") if "line" in e.attrib["class"]).attrib["d"]
    corners = [tuple(map(float, pair.split(","))) for pair in line[1:].split("L")]
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(corners)), "steps"


def boxes(svg: ET.Element) -> list[tuple[float, float, float, float]]:
    """What the names in a drawing take, by a font of 7 pixels a letter."""
    found = []
    for text in svg.iter("text"):
        if {"name", "note"} & {*text.attrib["class"].split()}:
            x, y, width = float(text.attrib["x"]), float(text.attrib["y"]), 7.0 * len(text.text or "")
            left = x - width if text.attrib["text-anchor"] == "end" else x
            found.append((left, y - 12, left + width, y))
    return found


@given(x=st.floats(1, 100), y=st.floats(0.1, 0.9), floor=st.floats(0, 0.2))
@pytest.mark.parametrize("frame", [WIDE, NARROW], ids=["wide", "narrow"])
def test_names_cover_neither_marks_nor_each_other_and_stay_in_the_picture(
    frame: Frame, x: float, y: float, floor: float
) -> None:
    chart = Chart(
        title="t",
        summary="s",
        x=Axis(title="x", low=0.9, high=110, unit="count", log=True),
        y=Axis(title="y", low=-0.1, high=1, unit="share"),
        rules=(Rule(y=0.5), Rule(y=0.5 - floor, label="budget, 5 % less: 68.4 %")),
        marks=(
            Mark(x=x, y=y, tone="accent", shape="ring", label="shipped: 13.6x fewer"),
            Mark(x=95, y=0.5, tone="ink", shape="diamond", label="full: 72.0 %", side="left"),
        ),
    )
    svg = ET.fromstring(draw(chart, frame))
    names = boxes(svg)
    assert len(names) == 3
    marks = [(left * frame.width / 100, top * frame.height / 100) for left, top in places(chart, frame)]
    for i, (x0, y0, x1, y1) in enumerate(names):
        assert 0 <= x0 < x1 <= frame.width
        assert not any(x0 < mx < x1 and y0 < my < y1 for mx, my in marks)
        assert not any(x0 < b[2] and x1 > b[0] and y0 < b[3] and y1 > b[1] for b in names[:i])


@pytest.mark.parametrize("frame", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_long_title_is_broken_and_stays_in_the_picture(frame: Frame) -> None:
    title = "milliseconds a call, predicted (tensorrt, batch 128) (log scale)"
    y = Axis(title="y", low=0, high=1, unit="share")
    x = Axis(title=title, low=1, high=100, unit="ms", log=True)
    svg = ET.fromstring(draw(Chart(title="t", summary="s", x=x, y=y), frame))
    lines = [text for text in svg.iter("text") if text.attrib["class"] == "title"]
    assert " ".join(line.text or "" for line in lines) == title
    for line in lines:
        assert 7 * len(line.text or "") <= frame.width
        assert float(line.attrib["x"]) == frame.width / 2
        assert float(line.attrib["y"]) <= frame.height
