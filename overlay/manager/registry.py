"""Who belongs: collaborations, stations, join tokens (as hashes only) and open enrolments.

One SQLite file of mode 0600. Every change is one transaction; a token can be used up once.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any

_SCHEMA = """
CREATE TABLE IF NOT EXISTS collaborations (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, network TEXT NOT NULL, subnet TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS tokens (
    hash TEXT PRIMARY KEY, collaboration_id INTEGER NOT NULL, station TEXT NOT NULL,
    expires REAL NOT NULL, used INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS stations (
    collaboration_id INTEGER NOT NULL, name TEXT NOT NULL, organization_id INTEGER NOT NULL,
    node_id INTEGER NOT NULL, wireguard_key TEXT NOT NULL, wireguard_address TEXT NOT NULL,
    endpoint TEXT NOT NULL, station_key TEXT NOT NULL, client_key TEXT NOT NULL,
    swarm_node_id TEXT NOT NULL, PRIMARY KEY (collaboration_id, name));
CREATE TABLE IF NOT EXISTS pending (
    token_hash TEXT PRIMARY KEY, expires REAL NOT NULL,
    collaboration_id INTEGER NOT NULL, name TEXT NOT NULL, organization_id INTEGER NOT NULL,
    node_id INTEGER NOT NULL, wireguard_key TEXT NOT NULL, wireguard_address TEXT NOT NULL,
    endpoint TEXT NOT NULL, station_key TEXT NOT NULL, client_key TEXT NOT NULL,
    swarm_node_id TEXT NOT NULL, UNIQUE (collaboration_id, name));
CREATE TABLE IF NOT EXISTS revision (number INTEGER NOT NULL);
INSERT INTO revision SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM revision);
"""


@dataclass(frozen=True)
class Collaboration:
    """A collaboration that this manager serves."""

    id: int
    name: str
    network: str
    subnet: str


@dataclass(frozen=True)
class Token:
    """A join token, known by its hash; `expires` in Unix seconds."""

    hash: str
    collaboration_id: int
    station: str
    expires: float
    used: bool


@dataclass(frozen=True)
class Station:
    """A station, admitted or about to be; keys are public or fingerprints of public keys."""

    collaboration_id: int
    name: str
    organization_id: int
    node_id: int
    wireguard_key: str
    wireguard_address: str
    endpoint: str
    station_key: str
    client_key: str
    swarm_node_id: str = ""


@dataclass(frozen=True)
class Pending:
    """An enrolment between `enrol` and `confirm`; `expires` in Unix seconds."""

    token_hash: str
    expires: float
    station: Station


_STATION = ", ".join(field.name for field in fields(Station))
_STATION_MARKS = ", ".join("?" for _ in fields(Station))


def token_hash(token: str) -> str:
    """What is stored of a token; tokens are random, so a plain hash is enough."""
    return hashlib.sha256(token.encode()).hexdigest()


class Registry:
    """The registry file; safe for threads, and for another process that makes a token."""

    def __init__(self, path: Path) -> None:
        os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        self._lock = threading.RLock()
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All calls inside happen wholly or not at all; transactions may be nested."""
        with self._lock:
            if self._db.in_transaction:
                yield
                return
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    # --- collaborations ---------------------------------------------------------------------

    def put_collaboration(self, collaboration: Collaboration) -> None:
        """Add a collaboration or replace it."""
        with self.transaction():
            self._db.execute(
                "INSERT OR REPLACE INTO collaborations VALUES (?, ?, ?, ?)",
                astuple(collaboration),
            )

    def collaboration(self, collaboration_id: int) -> Collaboration | None:
        """A collaboration by its vantage6 id."""
        row = self._one("SELECT * FROM collaborations WHERE id = ?", collaboration_id)
        return Collaboration(*row) if row else None

    def collaborations(self) -> list[Collaboration]:
        """All collaborations by their ids."""
        return [
            Collaboration(*row) for row in self._all("SELECT * FROM collaborations ORDER BY id")
        ]

    # --- tokens -----------------------------------------------------------------------------

    def new_token(self, collaboration_id: int, station: str, expires: float) -> str:
        """Make a token for one station; earlier unused ones of the station become worthless."""
        token = secrets.token_urlsafe(32)
        with self.transaction():
            self._db.execute(
                "DELETE FROM tokens WHERE collaboration_id = ? AND station = ? AND used = 0"
                " AND hash NOT IN (SELECT token_hash FROM pending)",
                (collaboration_id, station),
            )
            self._db.execute(
                "INSERT INTO tokens VALUES (?, ?, ?, ?, 0)",
                (token_hash(token), collaboration_id, station, expires),
            )
        return token

    def token(self, hashed: str) -> Token | None:
        """A token by its hash."""
        row = self._one("SELECT * FROM tokens WHERE hash = ?", hashed)
        return Token(row[0], row[1], row[2], row[3], bool(row[4])) if row else None

    # --- enrolments -------------------------------------------------------------------------

    def put_pending(self, pending: Pending) -> None:
        """Open an enrolment, or prolong the one of the same token."""
        with self.transaction():
            self._db.execute(
                f"INSERT OR REPLACE INTO pending (token_hash, expires, {_STATION})"  # noqa: S608
                f" VALUES (?, ?, {_STATION_MARKS})",
                (pending.token_hash, pending.expires, *astuple(pending.station)),
            )

    def pending(self) -> list[Pending]:
        """All open enrolments."""
        sql = f"SELECT token_hash, expires, {_STATION} FROM pending"  # noqa: S608
        return [Pending(row[0], row[1], Station(*row[2:])) for row in self._all(sql)]

    def drop_pending(self, hashed: str) -> None:
        """Close an enrolment without admitting the station."""
        with self.transaction():
            self._db.execute("DELETE FROM pending WHERE token_hash = ?", (hashed,))

    def admit(self, hashed: str, station: Station) -> None:
        """Use a token up, close its enrolment and make the station a member, at once."""
        with self.transaction():
            self._db.execute("DELETE FROM pending WHERE token_hash = ?", (hashed,))
            self._db.execute("UPDATE tokens SET used = 1 WHERE hash = ?", (hashed,))
            self._db.execute(
                f"INSERT OR REPLACE INTO stations ({_STATION})"  # noqa: S608
                f" VALUES ({_STATION_MARKS})",
                astuple(station),
            )
            self._db.execute("UPDATE revision SET number = number + 1")

    # --- members ----------------------------------------------------------------------------

    def stations(self, collaboration_id: int | None = None) -> list[Station]:
        """Admitted stations, of one collaboration or of all, by name."""
        sql = f"SELECT {_STATION} FROM stations"  # noqa: S608
        if collaboration_id is None:
            rows = self._all(f"{sql} ORDER BY collaboration_id, name")
        else:
            rows = self._all(f"{sql} WHERE collaboration_id = ? ORDER BY name", collaboration_id)
        return [Station(*row) for row in rows]

    def station(self, collaboration_id: int, name: str) -> Station | None:
        """An admitted station."""
        found = [item for item in self.stations(collaboration_id) if item.name == name]
        return found[0] if found else None

    def revision(self) -> int:
        """A number that grows with every change of membership."""
        return int(self._all("SELECT number FROM revision")[0][0])

    def _all(self, sql: str, *values: object) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    def _one(self, sql: str, *values: object) -> tuple[Any, ...] | None:
        rows = self._all(sql, *values)
        return rows[0] if rows else None
