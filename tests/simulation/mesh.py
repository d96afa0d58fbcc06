"""An in-memory twin of the peers' group, with real keys, so that whole runs fit in one process."""

from __future__ import annotations

import base64
import threading
from collections import namedtuple
from datetime import datetime, timezone

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from overlay import identity
from overlay.errors import OverlayError, PeerAborted, PeerLate, TranscriptMismatch
from overlay.wire import canonical_json
from overlay.wire.payload import parse_json

COLLABORATION, TASK, FIRST_RUN = 1, 12, 30
WAIT = 10.0
Message = namedtuple("Message", "sender round payload")


class Authority:
    """A collaboration CA that gives every station and run its certificates."""

    def __init__(self):
        self.now = datetime.now(timezone.utc)
        self.ca, self.key = identity.create_ca("collaboration 1", self.now)
        self.ca_pem = identity.cert_pem(self.ca)
        self.fingerprint = identity.fingerprint(self.ca)

    def run(self, station, run_id, *, task=TASK, named=None):
        """(chain PEM, key PEM) of a run; `named` is what a cheating station puts in the leaf."""
        key = identity.new_key()
        csr = identity.load_csr(identity.create_csr(key, station))
        station_ca = identity.issue_station_ca(
            self.ca, self.key, csr, station, COLLABORATION, self.now
        )
        return identity.issue_run(
            station_ca,
            key,
            station=named or station,
            collaboration_id=COLLABORATION,
            task_id=task,
            run_id=run_id,
            now=self.now,
        )


def sign(statement, chain, key, ca_pem):
    """An attestation as `overlay.peer` makes it."""
    raw = identity.load_key(key).sign(canonical_json(statement), ec.ECDSA(hashes.SHA256()))
    return {
        "statement": statement,
        "signature": base64.b64encode(raw).decode(),
        "chain": chain.decode(),
        "ca": ca_pem.decode(),
    }


class Mesh:
    """All stations' mailboxes."""

    def __init__(self, stations, authority):
        self.stations = tuple(sorted(stations))
        self.authority = authority
        self.changed = threading.Condition()
        self.mail = {station: [] for station in self.stations}
        self.aborted = None
        self.sent = []

    def group(self, station):
        return MemoryGroup(self, station)


class MemoryGroup:
    """One station's end; the same calls as `overlay.peer.Group` where the engine uses them."""

    def __init__(self, mesh, station):
        self.mesh, self.me, self.stations = mesh, station, mesh.stations
        self.others = tuple(other for other in self.stations if other != station)
        self.collaboration_id, self.task_id = COLLABORATION, TASK
        self.run_id = FIRST_RUN + self.stations.index(station)
        self.identity = mesh.authority.run(station, self.run_id)

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if isinstance(error, OverlayError) and not isinstance(error, PeerAborted):
            with self.mesh.changed:
                self.mesh.aborted = self.mesh.aborted or PeerAborted(
                    f"{self.me} stopped: {error}", station=self.me
                )
                self.mesh.changed.notify_all()

    def send(self, station, payload, *, round=0):
        if isinstance(payload, dict):  # as on the wire: keys arrive in canonical order
            payload = parse_json(canonical_json(payload))
        with self.mesh.changed:
            self.mesh.sent.append((self.me, station, round, payload))
            self.mesh.mail[station].append(Message(self.me, round, payload))
            self.mesh.changed.notify_all()

    def receive(self, *, from_=None, round=0):
        box = self.mesh.mail[self.me]

        def ready():
            mine = (m for m in box if m.round == round and from_ in (None, m.sender))
            return next(mine, self.mesh.aborted)

        with self.mesh.changed:
            if not self.mesh.changed.wait_for(ready, WAIT):
                raise PeerLate(f"{self.me} got nothing in round {round}")
            message = ready()
            if message is self.mesh.aborted:  # as in a group: what has come is given out first
                raise message
            box.pop(next(place for place, one in enumerate(box) if one is message))
            return message

    def exchange(self, payloads, *, round=0):
        for station, payload in payloads.items():
            self.send(station, payload, round=round)
        return {other: self.receive(from_=other, round=round).payload for other in self.others}

    def agree(self, digest, *, round=0):
        answers = self.exchange(dict.fromkeys(self.others, digest), round=1000 + round)
        for station, answer in answers.items():
            if answer != digest:
                raise TranscriptMismatch(f"{station} differs", station=station)

    def attest(self, statement):
        return sign(statement, *self.identity, self.mesh.authority.ca_pem)


def run_all(mesh, work):
    """`work(group, station)` at every station at once: station -> its result or its error."""
    outcome = {}

    def one(station):
        try:
            with mesh.group(station) as group:
                outcome[station] = work(group, station)
        except OverlayError as error:
            outcome[station] = error

    threads = [threading.Thread(target=one, args=(station,)) for station in mesh.stations]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcome
