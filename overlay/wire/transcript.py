"""Two stations hold the same digest only if they saw the same public facts in the same order."""

from __future__ import annotations

import hashlib
from typing import Any

from overlay.wire.payload import canonical_json

_LABEL = b"v6-overlay transcript 1"


class Transcript:
    """An ordered, labelled SHA-256 of public facts; never put a secret or a single share in it."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256(_LABEL)

    def add(self, label: str, fact: bytes | memoryview | str | int | dict[str, Any]) -> None:
        """Append a fact. Label and fact are length-prefixed and typed, so no two lists collide."""
        content: bytes | memoryview
        if isinstance(fact, dict):
            kind, content = b"j", canonical_json(fact)
        elif isinstance(fact, str):
            kind, content = b"s", fact.encode()
        elif isinstance(fact, int):
            kind, content = b"i", str(fact).encode()
        else:
            kind, content = b"b", memoryview(fact).cast("B")
        name = label.encode()
        self._hash.update(len(name).to_bytes(8, "little") + name)
        self._hash.update(kind + len(content).to_bytes(8, "little"))
        self._hash.update(content)

    def hexdigest(self) -> str:
        """The digest of everything added so far, 64 hex digits."""
        return self._hash.hexdigest()
