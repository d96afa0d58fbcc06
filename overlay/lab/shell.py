"""The lab runs programs here and nowhere else: a failure is a HostError with the last words."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from overlay.errors import HostError, MissingRequirement

Completed = subprocess.CompletedProcess[str]
Progress = Callable[[str], None]


def call(
    argv: Sequence[str],
    *,
    input: str | bytes | None = None,
    check: bool = True,
    timeout: float | None = 900,
    env: Mapping[str, str] | None = None,
    cwd: str | None = None,
) -> Completed:
    """Run a program and return its exit code and its text on both streams.

    Args:
        argv: the program and its arguments; no shell, and never a secret.
        input: what the program reads on its standard input.
        check: raise where the program ends with another code than 0.
        timeout: seconds until the program is stopped.
        env: the whole environment, where it is not this process's.
        cwd: the directory to run in.

    Raises:
        MissingRequirement: the program is not installed.
        HostError: it failed (with `check`) or took longer than `timeout`.
    """
    data = input.encode() if isinstance(input, str) else input
    try:
        done = subprocess.run(
            list(argv),
            input=data,
            stdin=subprocess.DEVNULL if data is None else None,
            capture_output=True,
            timeout=timeout,
            env=env,
            cwd=cwd,
            check=False,
        )
    except FileNotFoundError:
        raise MissingRequirement(
            f"the program {argv[0]} is not installed", next_step="script/setup"
        ) from None
    except subprocess.TimeoutExpired:
        raise HostError(f"{_short(argv)} did not end within {timeout:.0f} s") from None
    out, err = done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace")
    if check and done.returncode:
        said = (err.strip() or out.strip())[-1500:]
        raise HostError(f"{_short(argv)} ended with code {done.returncode}", why=said)
    return Completed(list(argv), done.returncode, out, err)


def in_parallel(jobs: Sequence[Callable[[], Any]]) -> list[Any]:
    """Run all jobs at once and return their results in order; the first error is raised last.

    Waits for every job even after an error, so that nothing runs on behind the caller's back.
    """
    with ThreadPoolExecutor(max_workers=max(1, len(jobs))) as pool:
        futures = [pool.submit(job) for job in jobs]
    return [future.result() for future in futures]


def _short(argv: Sequence[str]) -> str:
    text = " ".join(argv)
    return text if len(text) <= 160 else text[:160] + "..."
