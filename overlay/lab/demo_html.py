"""The page says nothing that report.json does not say, and loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from overlay.capture import Kind, matrix_svg
from overlay.capture.picture import human_bytes
from overlay.lab.demo_report import SERVER, Check, Report, Run

_STYLE = """
:root { color-scheme: light dark; --paper: #fbfaf8; --card: #ffffff; --ink: #1d2530;
  --soft: #5c6773; --faint: #e4e2dd; --accent: #1f6f8b; --good: #2c7a4b; --bad: #b3392f; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14181d; --card: #1b2027; --ink: #e3e7ec; --soft: #98a3af;
    --faint: #2e353e; --accent: #4fb3d1; --good: #6cc58c; --bad: #ef7d72; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1060px; margin: 0 auto; padding: 40px 24px 64px; }
h1 { font-size: 26px; line-height: 1.25; margin: 0 0 4px; }
h2 { font-size: 17px; margin: 40px 0 12px; }
p { margin: 0 0 12px; } .soft, caption, figcaption { color: var(--soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(200px, 1fr));
  gap: 12px; margin: 24px 0 0; }
.figure { background: var(--card); border: 1px solid var(--faint); border-radius: 8px;
  padding: 14px 16px; }
.figure b { display: block; font-size: 24px; font-weight: 600; line-height: 1.2; }
ul.claims { list-style: none; margin: 0; padding: 0; }
ul.claims li { padding: 7px 0 7px 28px; border-bottom: 1px solid var(--faint);
  position: relative; }
ul.claims li::before { position: absolute; left: 4px; font-weight: 700; }
li.kept::before { content: "\\2713"; color: var(--good); }
li.broken::before { content: "\\2717"; color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 6px; }
th { text-align: left; font-weight: 600; color: var(--soft); }
th, td { padding: 6px 14px 6px 0; border-bottom: 1px solid var(--faint); }
td.n, th.n { text-align: right; } code { font-size: 13px; }
.pictures { display: flex; flex-wrap: wrap; gap: 16px; }
figure { margin: 0; flex: 0 1 auto; max-width: 100%; overflow-x: auto; background: var(--card);
  border: 1px solid var(--faint); border-radius: 8px; padding: 12px 14px; }
svg.matrix text { font: 12px system-ui, sans-serif; fill: var(--ink); }
svg.matrix .axis { fill: var(--soft); } svg.matrix .cell { fill: var(--accent);
  stroke: var(--faint); } svg.matrix .self { fill: var(--faint); opacity: .5; }
svg.matrix .value.on { fill: var(--card); font-weight: 600; }
details { margin-top: 8px; } details summary { cursor: pointer; color: var(--soft); }
"""


def render(report: Report) -> str:
    """The whole page as one text."""
    checks = report.checks()
    broken = [check for check in checks if not check.passed]
    verdict = (
        f"All {len(checks)} claims hold on {len(report.stations)} stations."
        if not broken
        else f"{len(broken)} of {len(checks)} claims do not hold."
    )
    body = [
        "<h1>Shares travel from station to station</h1>",
        f'<p class="soft">{escape(verdict)} Every figure below was measured in this run; '
        "<code>report.json</code> beside this page holds them all.</p>",
        _figures(report),
        "<h2>What was claimed, and what was measured</h2>",
        f'<ul class="claims">{"".join(map(_claim, checks))}</ul>',
        "<h2>Sums against the pooled truth</h2>",
        _sums(report),
        *(_columns(run) for run in report.sums),
        "<h2>Who spoke to whom</h2>",
        _pictures(report),
        "<h2>Between each station and the server</h2>",
        _server(report),
        "<h2>What the packets were</h2>",
        _kinds(report),
        "<h2>How it was measured</h2>",
        "<p>Every host is a machine of its own to the network: its packets cross one bridge, and "
        "tcpdump captured that bridge from before a task was submitted until its result was "
        "verified, without losing a packet. Bytes are lengths on the wire, link headers included. "
        "A packet counts as WireGuard only if it has WireGuard's port <em>and</em> its header; "
        "VXLAN and Swarm's control ports in clear count as plaintext overlay packets. Bytes "
        "between a station and the server include everything: requests, results, image checks, "
        "and WireGuard itself. The expected sums come from the stations' files put together, "
        "added without rounding.</p>",
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>v6-overlay: demonstration</title><style>{_STYLE}</style></head>\n"
        f"<body><main>\n{chr(10).join(body)}\n</main></body></html>\n"
    )


def _figures(report: Report) -> str:
    through = sum(report.through_server(report.vector).values())
    figures = [
        (human_bytes(report.vector.station_bytes(report.stations)), "station to station"),
        (human_bytes(through), "more through the server than an empty task"),
        (
            human_bytes(sum(report.through_server(report.control).values())),
            "the same, when the vector is sent through it on purpose",
        ),
        (str(report.plaintext_overlay_packets), "overlay packets in clear"),
    ]
    cells = (
        f'<div class="figure"><b>{escape(value)}</b><span class="soft">{escape(label)}</span></div>'
        for value, label in figures
    )
    return f'<div class="figures">{"".join(cells)}</div>'


def _claim(check: Check) -> str:
    state = "kept" if check.passed else "broken"
    name = f" <b>{check.error.__name__}</b>" if check.error else ""
    return (
        f'<li class="{state}">{escape(check.claim[:1].upper() + check.claim[1:])}.{name} '
        f'<span class="soft">{escape(check.measured)}</span></li>'
    )


def _sums(report: Report) -> str:
    rows = [
        [
            escape(run.title),
            f"{run.rows:,}",
            f"{run.elements or len(run.result or {}):,}",
            f"{run.max_abs_error:.3g}",
            f"{run.allowed_error:.3g}",
            f"{run.seconds:.1f}",
            f"<code>{escape(run.transcript_sha256[:16])}</code>",
        ]
        for run in (*report.sums, report.control)
    ]
    heads = ["task", "rows", "sums", "largest error", "allowed", "seconds", "transcript"]
    return _table(heads, rows, numbers=range(1, 6))


def _pictures(report: Report) -> str:
    hosts = [SERVER, *report.stations]
    figures = []
    for run in (report.vector, report.control):
        svg = matrix_svg(hosts, run.traffic.by_hosts(), f"Bytes from host to host: {run.title}")
        figures.append(f"<figure>{svg}<figcaption>{escape(run.title)}</figcaption></figure>")
    return f'<div class="pictures">{"".join(figures)}</div>'


def _server(report: Report) -> str:
    empty, run, control = (
        each.server_bytes(report.stations) for each in (report.empty, report.vector, report.control)
    )
    rows = [
        [
            escape(name),
            human_bytes(empty[name]),
            human_bytes(run[name]),
            human_bytes(run[name] - empty[name]),
            human_bytes(control[name]),
        ]
        for name in report.stations
    ]
    heads = ["station", "empty task", report.vector.title, "difference", report.control.title]
    return _table([escape(head) for head in heads], rows, numbers=range(1, 5))


def _kinds(report: Report) -> str:
    rows = [
        [escape(run.title), *(f"{run.traffic.packets_of(kind):,}" for kind in Kind)]
        for run in report.runs
    ]
    return _table(["packets", *(kind.value for kind in Kind)], rows, numbers=range(1, 5))


def _columns(run: Run) -> str:
    rows = [
        [escape(name), repr(value), repr((run.expected or {}).get(name))]
        for name, value in (run.result or {}).items()
    ]
    table = _table(["", "reported", "expected"], rows, numbers=range(1, 3))
    return f"<details><summary>{escape(run.title)}, every figure</summary>{table}</details>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int]) -> str:
    right = set(numbers)

    def line(tag: str, cells: Sequence[str]) -> str:
        kind = [' class="n"' if place in right else "" for place in range(len(cells))]
        return "".join(f"<{tag}{k}>{cell}</{tag}>" for k, cell in zip(kind, cells, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in rows)
    return (
        f'<div class="scroll"><table><thead><tr>{line("th", heads)}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
