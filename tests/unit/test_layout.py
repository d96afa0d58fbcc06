"""The repository keeps its shape: where things are, how long a file grows, what links to what."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = ["overlay", "algorithms", "deploy", "ansible", "bench", "tests", "script", "docs"]
CODE = sorted([*ROOT.glob("overlay/**/*.py"), *ROOT.glob("algorithms/**/*.py")])
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("algorithms/**/*.md")])
MOST_LINES = 300
# A longer file needs a reason here.
LONGER: dict[str, str] = {}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_the_top_level_is_what_the_readme_promises() -> None:
    for part in [*PARTS, "README.md", "CHANGELOG.md", "LICENSE", "pyproject.toml", ".ci/run"]:
        assert (ROOT / part).exists(), part
    assert "Apache License" in (ROOT / "LICENSE").read_text()


@pytest.mark.parametrize("script", ["setup", "demo", "test"])
def test_scripts_run_and_stop_at_the_first_error(script: str) -> None:
    path = ROOT / "script" / script
    assert path.stat().st_mode & 0o111
    assert "set -euo pipefail" in path.read_text()


def test_ci_runs_what_people_run() -> None:
    assert "script/test" in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("path", CODE, ids=name)
def test_a_module_is_short_and_says_what_it_keeps(path: Path) -> None:
    text = path.read_text()
    if name(path) not in LONGER:
        assert len(text.splitlines()) <= MOST_LINES
    assert ast.get_docstring(ast.parse(text)), "the first docstring line says what rule it keeps"


@pytest.mark.parametrize("path", PAGES, ids=name)
def test_links_inside_the_documentation_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#\s]+)", path.read_text()):
        if "://" not in target:
            assert (path.parent / target).exists(), target


def test_pinned_versions_name_no_index() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines if line[0] != "#")
