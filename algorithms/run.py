"""The container's command: run one vantage6 function; its log is live and holds no traceback.

A traceback may quote data, and a user's mistake is one line: what happened, why, what to do.
"""

from __future__ import annotations

import io
import sys

from vantage6.algorithm.tools.wrap import wrap_algorithm


def main() -> None:
    """Read the task's input, call its method, write the result where vantage6 looks for it."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # progress must not wait for a full buffer
    wrap_algorithm(log_traceback=False)


if __name__ == "__main__":
    main()
