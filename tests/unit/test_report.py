"""A report keeps its promises only if the measurements do: each check has a twin that fails."""

from __future__ import annotations

import dataclasses
import json
from fractions import Fraction
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from overlay.capture import Kind, Pair, Traffic, matrix_svg
from overlay.capture.picture import human_bytes
from overlay.errors import BlindMeasurement, PlaintextSeen, SharesAtServer, WrongSum
from overlay.lab.demo_html import render
from overlay.lab.demo_report import Report, Run
from overlay.lab.demo_truth import (
    allowed_error,
    is_whole,
    largest_error,
    pooled_sums,
    pooled_vector,
    read_table,
)

STATIONS = ("hospital-1", "hospital-2", "hospital-3")
MILLION = 1_000_000


def traffic(server: int, between: int, plain: int = 0) -> Traffic:
    pairs = [Pair(s, "central", Kind.SERVER, 10, server) for s in STATIONS]
    pairs += [Pair("central", s, Kind.WIREGUARD, 5, 500) for s in STATIONS]
    pairs += [
        Pair(a, b, Kind.WIREGUARD, between // 1000, between)
        for a in STATIONS
        for b in STATIONS
        if a != b
    ]
    if plain:
        pairs.append(Pair("hospital-1", "hospital-2", Kind.PLAIN_OVERLAY, plain, 90 * plain))
    return Traffic(tuple(pairs))


def run(title: str, seen: Traffic, elements: int = 0, error: float = 0.0) -> Run:
    return Run(
        title, 4.0, seen, "dk_secure_sum", 569, elements, {"age": 12.5}, {"age": 12.5},
        error, 1e-9, "ab" * 32,
    )  # fmt: skip


@pytest.fixture
def report() -> Report:
    return Report(
        STATIONS,
        (
            run("columns", traffic(20_000, 3_000)),
            run("vector", traffic(21_000, 4_000_000), MILLION),
        ),
        Run("empty task", 3.0, traffic(18_000, 0)),
        run("control", traffic(9_000_000, 4_000_000), MILLION),
    )


def test_a_good_run_keeps_every_promise(report: Report) -> None:
    report.raise_for_checks()
    assert all(check.passed for check in report.checks())


@pytest.mark.parametrize(
    ("part", "broken", "error"),
    [
        ("sums", lambda r: (run("c", traffic(1, 1), error=1e-8), r.vector), WrongSum),
        ("sums", lambda r: (run("c", traffic(1, 1), error=float("nan")), r.vector), WrongSum),
        (
            "sums",
            lambda r: (dataclasses.replace(r.sums[0], transcript_sha256=""), r.vector),
            WrongSum,
        ),
        ("control", lambda _: run("k", traffic(9_000_000, 4_000_000), MILLION, 1.0), WrongSum),
        ("empty", lambda _: Run("empty", 3.0, traffic(18_000, 0, plain=1)), PlaintextSeen),
        ("sums", lambda _: (run("v", traffic(2_000_000, 4_000_000), MILLION),), SharesAtServer),
        ("sums", lambda _: (run("v", traffic(21_000, 1_000), MILLION),), BlindMeasurement),
        ("control", lambda _: run("k", traffic(21_000, 4_000_000), MILLION), BlindMeasurement),
    ],
)
def test_each_promise_can_be_broken(report: Report, part: str, broken, error: type) -> None:
    with pytest.raises(error):
        dataclasses.replace(report, **{part: broken(report)}).raise_for_checks()


def test_report_json_has_what_was_promised(report: Report) -> None:
    document = json.loads(json.dumps(report.as_dict(), allow_nan=False))
    assert document["stations"] == list(STATIONS)
    for entry in document["runs"]:
        assert {
            "protocol", "rows", "seconds", "result", "expected", "max_abs_error",
            "transcript_sha256",
        } <= set(entry)  # fmt: skip
    seen = document["traffic"]
    assert {"src", "dst", "bytes", "packets"} <= set(seen["pairs"][0])
    assert seen["plaintext_overlay_packets"] == 0
    assert seen["server_bytes_per_station"]["run"]["hospital-1"] == 21_500
    assert seen["server_bytes_per_station"]["empty_task"]["hospital-1"] == 18_500
    assert seen["share_bytes_through_server"] == 9_000
    assert seen["control_bytes_through_server"] == 3 * (9_000_000 - 18_000)


class Page(HTMLParser):
    """Collects what a page would load, and whether its tags are balanced."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag not in ("meta", "rect"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_stands_alone_and_escapes_names(report: Report) -> None:
    named = dataclasses.replace(report.sums[0], title="<script>x</script>")
    text = render(dataclasses.replace(report, sums=(named, report.vector)))
    page = Page()
    page.feed(text)
    assert page.open == []
    assert page.loads == []
    assert "<script" not in text
    assert text.count("<svg") == 2
    assert "All 7 claims hold" in text
    broken = dataclasses.replace(report, empty=Run("e", 1.0, traffic(1, 0, plain=2)))
    assert "PlaintextSeen" in render(broken)


def test_the_picture_names_every_pair() -> None:
    text = matrix_svg(["a", "b<"], {("a", "b<"): (2_500_000, 9)}, "t")
    assert "a to b&lt;: 2500000 bytes in 9 packets" in text
    assert "2.5 MB" in text
    assert text.count('class="self"') == 2


@pytest.mark.parametrize(
    ("octets", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (999_600, "1 MB"), (-2500, "-2.5 kB"),
     (2 * 10**15, "2e+03 TB")],
)  # fmt: skip
def test_bytes_are_short_to_read(octets: int, text: str) -> None:
    assert human_bytes(octets) == text


def test_the_truth_is_exact() -> None:
    tables = [
        read_table("n,x,t\n9007199254740993,0.1,a\n"),
        read_table("n,x,t\n1,0.2,b\n-4,,c\n"),
    ]
    truth = pooled_sums(tables)
    assert truth == {"n": 9007199254740990, "x": Fraction(0.1) + Fraction(0.2)}
    assert is_whole(tables, "n")
    assert not is_whole(tables, "x")
    assert largest_error({"n": 9007199254740990, "x": 0.25}, truth) == pytest.approx(0.05)
    assert largest_error({"n": 1}, truth) == float("inf")
    assert allowed_error(Fraction(0), 3, 32) == pytest.approx(3 * 2**-33)


def test_a_pooled_vector_is_rounded_once() -> None:
    rng = np.random.default_rng(5)
    parts = [rng.normal(size=500) * 10.0 ** rng.integers(-9, 9, 500) for _ in range(5)]
    exact = [float(sum(map(Fraction, column))) for column in zip(*parts, strict=True)]
    assert pooled_vector(parts).tolist() == exact


def test_empty_tables_do_not_break_the_truth() -> None:
    assert pooled_sums([pd.DataFrame({"a": pd.Series([], dtype=float)})]) == {"a": 0}
