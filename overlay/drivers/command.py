"""Programs are run here: no shell, always a deadline, and a failure is a named error.

Secrets never go into `argv`, which every user of a host can read: pass them as `stdin`.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

from overlay.errors import HostError, MissingRequirement


def run(argv: Sequence[str], *, stdin: str | None = None, timeout: float = 30.0) -> str:
    """Run a program and return its standard output.

    Args:
        argv: the program and its arguments.
        stdin: text for its standard input; none is given otherwise.
        timeout: seconds until it is killed.

    Raises:
        MissingRequirement: the program is not installed.
        HostError: it failed or did not end in time; the cause is the end of its error output.
    """
    shown = " ".join(argv)
    try:
        done = subprocess.run(
            list(argv),
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    except FileNotFoundError as error:
        raise MissingRequirement(
            f"the program {argv[0]} is not installed", next_step=f"install {argv[0]}"
        ) from error
    except subprocess.TimeoutExpired as error:
        raise HostError(f"`{shown}` did not end within {timeout:g} s") from error
    if done.returncode:
        cause = (done.stderr or done.stdout).strip()[-2000:]
        raise HostError(f"`{shown}` failed with status {done.returncode}", why=cause)
    return done.stdout
