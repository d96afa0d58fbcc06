"""Pictures are plain SVG text, for light and dark: no script, no font, nothing fetched."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

_CELL_W, _CELL_H, _LEFT, _TOP = 88, 44, 96, 36


def human_bytes(octets: int) -> str:
    """``1234567`` -> ``1.23 MB``: powers of ten, three significant digits."""
    value = float(octets)
    for unit in ("B", "kB", "MB", "GB"):
        if abs(value) < 999.5:
            return f"{octets} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} TB"


def matrix_svg(
    hosts: Sequence[str], traffic: Mapping[tuple[str, str], tuple[int, int]], title: str
) -> str:
    """Draw who sent how much to whom: senders down, receivers across, darker is more.

    Args:
        hosts: names in the order to draw.
        traffic: (sender, receiver) -> (bytes, packets); missing pairs are drawn as silent.
        title: what screen readers and a hover say.

    The shade is logarithmic, because control traffic and data differ by five powers of ten.
    Colours come from the page's CSS variables `--ink`, `--faint`, `--accent`.
    """
    width, height = _LEFT + _CELL_W * len(hosts) + 8, _TOP + _CELL_H * len(hosts) + 8
    most = max((octets for octets, _ in traffic.values()), default=0)
    parts = [
        f'<svg class="matrix" role="img" viewBox="0 0 {width} {height}" '
        f'width="{width}" height="{height}" xmlns="http://www.w3.org/2000/svg">',
        f"<title>{escape(title)}</title>",
        f'<text class="axis" x="{_LEFT - 12}" y="{_TOP - 12}" text-anchor="end">from \\ to</text>',
    ]
    for column, name in enumerate(hosts):
        x = _LEFT + _CELL_W * column + _CELL_W / 2
        parts.append(
            f'<text class="host" x="{x:g}" y="{_TOP - 12}" text-anchor="middle">'
            f"{escape(name)}</text>"
        )
    for row, src in enumerate(hosts):
        y = _TOP + _CELL_H * row
        parts.append(
            f'<text class="host" x="{_LEFT - 12}" y="{y + _CELL_H / 2 + 4:g}" text-anchor="end">'
            f"{escape(src)}</text>"
        )
        for column, dst in enumerate(hosts):
            parts.append(
                _cell(src, dst, _LEFT + _CELL_W * column, y, traffic.get((src, dst)), most)
            )
    return "\n".join([*parts, "</svg>"])


def _cell(src: str, dst: str, x: int, y: int, sent: tuple[int, int] | None, most: int) -> str:
    octets, packets = sent or (0, 0)
    box = f'x="{x + 2}" y="{y + 2}" width="{_CELL_W - 4}" height="{_CELL_H - 4}" rx="5"'
    if src == dst:
        return f'<rect class="self" {box}/>'
    shade = _shade(octets, most)
    strong = " on" if shade > 0.55 else ""
    return (
        f"<g><title>{escape(src)} to {escape(dst)}: {octets} bytes in {packets} packets</title>"
        f'<rect class="cell" {box} fill-opacity="{shade:.2f}"/>'
        f'<text class="value{strong}" x="{x + _CELL_W / 2:g}" y="{y + _CELL_H / 2 + 4:g}" '
        f'text-anchor="middle">{human_bytes(octets) if octets else "-"}</text></g>'
    )


def _shade(octets: int, most: int) -> float:
    """0 for silence; from 1 kB to the largest pair on a logarithmic scale up to 0.92."""
    if octets <= 0 or most <= 0:
        return 0.0
    low, high = math.log10(1e3), math.log10(max(most, 10_000))
    share = (math.log10(max(octets, 1e3)) - low) / (high - low)
    return 0.05 + 0.87 * math.pow(min(1.0, share), 1.5)
