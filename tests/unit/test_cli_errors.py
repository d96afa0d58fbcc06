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


def test_faults_of_the_system_and_of_ours_are_errors_too(monkeypatch, capsys):
    denied = PermissionError(13, "Permission denied", "/var/lib/x")
    code, out, err = run(monkeypatch, capsys, ["lab"], denied)
    assert (code, out) == (1, "")
    assert "HostError: /var/lib/x: Permission denied" in err
    assert "sudo" in err
    code, out, err = run(monkeypatch, capsys, ["lab", "--format", "json"], KeyError("x"))
    assert (code, err) == (1, "")
    assert "KeyError" in json.loads(out)["what"]
    monkeypatch.setenv("V6_OVERLAY_DEBUG", "1")
    with pytest.raises(KeyError):
        run(monkeypatch, capsys, ["lab"], KeyError("x"))


def test_what_follows_two_dashes_is_another_programs(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["v6-overlay", "lab", "exec", "h", "--", "x", "--format=json"])
    assert not cli._wants_json()


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


def commands(group, path=()):
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        if isinstance(found, click.Group):
            yield from commands(found, (*path, name))
        else:
            yield (*path, name), found


COMMANDS = {path: found for path, found in commands(cli.cli) if path[0] != "service"}
NEED_NO_EXAMPLE = {("image", "list"), ("lab", "down"), ("lab", "status")}


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_each_command_explains_itself(path):
    found = COMMANDS[path]
    assert found.help
    options = [item for item in found.params if isinstance(item, click.Option)]
    assert [item.name for item in options if not item.help] == []
    if path not in NEED_NO_EXAMPLE:
        assert f"v6-overlay {' '.join(path)} " in f"{found.help} {found.epilog}"
    if path not in {("lab", "exec"), ("lab", "ssh")}:
        assert "--format" in [word for item in options for word in item.opts]


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
