"""A run has one container and one directory, however often and whenever it is asked for."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from overlay.errors import HostError, NotAdmitted
from overlay.station.gate import Gate
from overlay.station.runs import Runs
from tests.unit.test_station_admission import NAME, Fakes, body

RAW = json.dumps(body()).encode()


class Engine(Fakes):
    """An engine whose containers have a state."""

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[str, str] = {}

    def inspect(self, container: str) -> dict[str, Any]:
        if container not in self.states:
            raise HostError("no such container")
        return {"Image": self.made, "State": {"Status": self.states[container]}}


def gate(engine: Fakes, kept: Runs) -> Gate:
    return Gate(engine, engine, engine, kept)  # type: ignore[arg-type]


@pytest.mark.parametrize("allowed", [True, False])
@pytest.mark.parametrize("state", ["created", "running", "paused"])
def test_a_second_create_leaves_the_living_run_alone(
    tmp_path: Path, state: str, allowed: bool
) -> None:
    engine, kept = Engine(), Runs(tmp_path)
    if not allowed:
        engine.allowed = ()
    engine.states = {"one": state}

    async def main() -> None:
        ask = gate(engine, kept)
        first = await ask(NAME, RAW)
        assert first is not None
        await first.created("one")
        found = sorted((path.name, path.read_bytes()) for path in (tmp_path / "34").iterdir())
        with pytest.raises(NotAdmitted, match="container already"):
            await ask(NAME, RAW)
        after = sorted((path.name, path.read_bytes()) for path in (tmp_path / "34").iterdir())
        assert after == found
        assert kept.ended(34, "one")

    asyncio.run(main())


@pytest.mark.parametrize("states", [{}, {"one": "exited"}, {"one": "dead"}])
def test_a_retry_after_the_end_gets_a_new_directory(tmp_path: Path, states: dict[str, str]) -> None:
    engine, kept = Engine(), Runs(tmp_path)

    async def main() -> None:
        ask = gate(engine, kept)
        for container in ("one", "two"):
            engine.states = {container: "created"}
            change = await ask(NAME, RAW)
            assert change is not None
            await change.created(container)
            engine.states = states
        assert not kept.ended(34, "one")
        assert kept.ended(34, "two")

    asyncio.run(main())


def test_two_creates_at_once_make_one(tmp_path: Path) -> None:
    engine, kept = Engine(), Runs(tmp_path)

    async def main() -> None:
        ask = gate(engine, kept)
        changes = await asyncio.gather(ask(NAME, RAW), ask(NAME, RAW), return_exceptions=True)
        (made,) = [change for change in changes if not isinstance(change, BaseException)]
        assert [type(change) for change in changes if change is not made] == [NotAdmitted]
        assert made is not None
        await made.failed()  # nothing came of it: the next attempt is free
        assert kept.present() == []
        assert await ask(NAME, RAW) is not None

    asyncio.run(main())


@pytest.mark.parametrize("allowed", [True, False])
def test_an_unforeseen_fault_does_not_bar_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    engine, kept = Engine(), Runs(tmp_path)

    if not allowed:
        engine.allowed = ()

    def fault(*_: object) -> None:
        raise RuntimeError

    async def main() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(kept, "admit" if allowed else "refuse", fault)
            with pytest.raises(RuntimeError):
                await gate(engine, kept)(NAME, RAW)
        assert await gate(engine, kept)(NAME, RAW) is not None

    asyncio.run(main())


def test_what_is_being_made_survives_the_look_for_ended_runs(tmp_path: Path) -> None:
    """The engine's list is older than a container that is made while it is read."""
    engine, kept = Engine(), Runs(tmp_path)
    engine.states = {"one": "created"}

    async def main() -> None:
        change = await gate(engine, kept)(NAME, RAW)
        assert change is not None
        assert list(kept.keep(dict)) == []

        def slow() -> Mapping[int, str]:
            thread = threading.Thread(target=lambda: asyncio.run(change.created("one")))
            thread.start()
            thread.join()
            return {}

        assert list(kept.keep(slow)) == []
        assert kept.present() == [34]
        assert list(kept.keep(dict)) == [34]

    asyncio.run(main())


@pytest.mark.parametrize("fault", ["not created", "not attached", "bug"])
def test_what_was_published_for_a_run_that_does_not_come_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    engine, kept, told = Engine(), Runs(tmp_path), []

    def broken(*_: object) -> None:
        raise RuntimeError

    ask = Gate(
        engine,  # type: ignore[arg-type]
        engine,
        engine,  # type: ignore[arg-type]
        kept,
        admitted=lambda run, _: told.append(("admitted", run)),
        dropped=lambda run: told.append(("dropped", run)),
    )

    async def main() -> None:
        if fault == "bug":
            monkeypatch.setattr(ask, "_hostname", broken)
            with pytest.raises(RuntimeError):
                await ask(NAME, RAW)
            return
        change = await ask(NAME, RAW)
        assert change is not None
        if fault == "not created":
            await change.failed()
        else:
            with pytest.raises(NotAdmitted):
                await change.created("unknown")

    asyncio.run(main())
    assert told == [("admitted", 34), ("dropped", 34)]
    assert kept.present() == []
