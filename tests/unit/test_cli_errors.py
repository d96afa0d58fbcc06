"""Every error of ours is text or JSON with its exit status; nobody ever sees a traceback."""

from __future__ import annotations

import json
import subprocess
import sys

import click
import pytest

from overlay import cli
from overlay.errors import EnrolmentRefused, UsageError

ERROR = EnrolmentRefused("no", why="because", next_step="ask", station="hospital-1")


def run(monkeypatch, capsys, argv, raises=None):
    @click.command()
    @click.option("--format", "form", default="text")
    def fake(form):
        if raises is not None:
            raise raises
        click.echo("done")

    monkeypatch.setattr(cli.LazyGroup, "get_command", lambda *_: fake)
    monkeypatch.setattr(sys, "argv", ["v6-overlay", *argv])
    with pytest.raises(SystemExit) as leave:
        cli.main()
    out, err = capsys.readouterr()
    return leave.value.code, out, err


def test_text_goes_to_stderr(monkeypatch, capsys):
    code, out, err = run(monkeypatch, capsys, ["init"], ERROR)
    assert (code, out) == (1, "")
    assert err.splitlines() == [
        "EnrolmentRefused (hospital-1): no",
        "  because: because",
        "  next: ask",
    ]


@pytest.mark.parametrize("words", [["--format", "json"], ["--format=json"]])
def test_json_goes_to_stdout(monkeypatch, capsys, words):
    code, out, err = run(monkeypatch, capsys, ["init", *words], ERROR)
    assert (code, json.loads(out), err) == (1, ERROR.as_dict(), "")


def test_statuses(monkeypatch, capsys):
    assert run(monkeypatch, capsys, ["init"])[:2] == (0, "done\n")
    assert run(monkeypatch, capsys, ["init"], UsageError("x"))[0] == 2
    code, _, err = run(monkeypatch, capsys, ["init"], KeyboardInterrupt())
    assert (code, "run the same command again" in err) == (130, True)
    code, out, _ = run(monkeypatch, capsys, ["init", "--no-such", "--format", "json"])
    assert (code, json.loads(out)["error"]) == (2, "UsageError")
    assert run(monkeypatch, capsys, ["init", "--no-such"])[0] == 2


def program(*argv: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from overlay.cli import main; sys.argv[0] = 'v6-overlay'; main()"
    return subprocess.run(
        [sys.executable, "-c", code, *argv], capture_output=True, text=True, timeout=30
    )


def test_help_imports_nothing_heavy():
    code = (
        "import sys; from overlay.cli import main; sys.argv = ['v6-overlay', '--help']\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print([m for m in ('docker', 'flask', 'pyroute2', 'cheroot') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout
    assert out.splitlines()[-1] == "[]"
    assert "init" in out
    assert "service" not in out


@pytest.mark.parametrize("command", ["init", "token", "service"])
def test_each_command_has_help(command):
    done = program(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "argv",
    [
        ["init", "--collaboration", "x", "--address", "a", "--vantage6-url", "u"],
        ["init", "--collaboration", "0", "--address", "a", "--vantage6-url", "u"],
        ["init", "--collaboration", "1", "--address", "a", "--vantage6-url", "u", "--station", "A"],
        ["token", "create", "--station", "x", "--minutes", "0"],
        ["no-such-command"],
    ],
)
def test_bad_arguments_are_status_2_without_a_traceback(argv):
    done = program(*argv)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_a_missing_package_is_named(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named {name}", name="matplotlib")

    monkeypatch.setattr(cli.importlib, "import_module", missing)
    group = cli.cli
    with pytest.raises(UsageError, match="matplotlib"):
        group.get_command(click.Context(group), "init")
