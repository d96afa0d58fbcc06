"""`v6-overlay`: renders what the other packages return, and is the one place that shows errors.

Commands are imported when they are used, so a host needs only what its own commands need.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import os
import sys

import click

from overlay import __version__
from overlay.errors import HostError, OverlayError, UsageError

# Command -> (module, attribute, one line for --help).
_COMMANDS = {
    "demo": ("overlay.cli.demo", "demo", "Show the whole product on this machine."),
    "image": ("overlay.cli.image", "image", "Which algorithm images may use the overlay here."),
    "init": ("overlay.cli.init", "init", "Make this host the central host of a collaboration."),
    "join": ("overlay.cli.join", "join", "Make this host a station; the token comes on stdin."),
    "lab": ("overlay.cli.lab", "lab", "Several real hosts on this one machine."),
    "service": ("overlay.cli.service", "service", "What the systemd units run."),
    "token": ("overlay.cli.token", "token", "Join tokens for stations."),
}
_HIDDEN = {"service"}
_ON_LAB = {"demo", "lab"}
_DEBUG = "V6_OVERLAY_DEBUG"


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of all commands whose modules are in this installation."""
        return sorted(name for name in _COMMANDS if _is_installed(name))

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """A command by name, imported now."""
        if cmd_name not in _COMMANDS or not _is_installed(cmd_name):
            return None
        module, attribute, _ = _COMMANDS[cmd_name]
        try:
            found = getattr(importlib.import_module(module), attribute)
        except ModuleNotFoundError as error:
            if (error.name or "").partition(".")[0] in {"overlay", "algorithms"}:
                raise
            raise UsageError(
                f"`v6-overlay {cmd_name}` needs the Python package {error.name}",
                next_step=f"pip install 'v6-overlay[{'lab' if cmd_name in _ON_LAB else 'host'}]'",
            ) from error
        command: click.Command = found
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the commands without importing them."""
        rows = [(n, _COMMANDS[n][2]) for n in self.list_commands(ctx) if n not in _HIDDEN]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="v6-overlay")
def cli() -> None:
    """Let vantage6 algorithm containers on different data stations talk directly, encrypted."""


def main() -> None:
    """Run the program; every error of ours is shown in one way and sets the exit status."""
    try:
        status = cli.main(prog_name="v6-overlay", standalone_mode=False)
    except OverlayError as error:
        _show(error)
        sys.exit(error.exit_code)
    except click.exceptions.Exit as leave:
        sys.exit(leave.exit_code)
    except click.ClickException as error:
        if _wants_json():
            _show(UsageError(error.format_message(), next_step=f"{_command(error)} --help"))
        else:
            error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted; run the same command again to finish it", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader has gone (`| head`); Python would complain once more at its own end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if _is_service():
            raise
        root = "run it again with sudo" if isinstance(error, PermissionError) else ""
        _show(HostError(_os_error(error), next_step=root))
        sys.exit(HostError.exit_code)
    except Exception as error:
        # The journal is to have the whole of it; a person gets one line and a way to the rest.
        if _is_service() or os.environ.get(_DEBUG):
            raise
        what = f"a fault in v6-overlay: {type(error).__name__}"
        again = f"report it, with what the same command prints under {_DEBUG}=1"
        _show(HostError(what, why=str(error), next_step=again))
        sys.exit(HostError.exit_code)
    sys.exit(status if isinstance(status, int) else 0)


def _is_service() -> bool:
    return sys.argv[1:2] == ["service"]


def _os_error(error: OSError) -> str:
    reason = error.strerror or str(error)
    return f"{error.filename}: {reason}" if error.filename else reason


def _command(error: click.ClickException) -> str:
    context = error.ctx if isinstance(error, click.UsageError) else None
    return context.command_path if context else "v6-overlay"


def _show(error: OverlayError) -> None:
    if _wants_json():
        click.echo(json.dumps(error.as_dict()))
        return
    station = f" ({error.station})" if error.station else ""
    click.echo(f"{error.name}{station}: {error.what}", err=True)
    for word, text in (("because", error.why), ("next", error.next_step)):
        if text:
            click.echo(f"  {word}: {text}", err=True)


def _wants_json() -> bool:
    """Whether JSON was asked for, also where the command line could not be read to its end."""
    # What follows `--` belongs to another program (`lab exec HOST -- CMD`).
    words = list(itertools.takewhile(lambda word: word != "--", sys.argv[1:]))
    return "--format=json" in words or ("--format", "json") in itertools.pairwise(words)


def _is_installed(name: str) -> bool:
    return importlib.util.find_spec(_COMMANDS[name][0]) is not None
