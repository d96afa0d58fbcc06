"""Both protocols sum exactly with 3 to 50 stations, whatever the order of messages."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published import TextbookDk
from simulated import names, play, pooled

from algorithms.dk_secure_sum.protocol import PARTIAL, SEGMENT, SUM, DkSecureSum
from algorithms.secure_sum.protocol import PASS, RESULT, SecureSum
from overlay.errors import ProtocolError, TooFewStations

MACHINES = (SecureSum, DkSecureSum)


def random_vectors(count, length, seed=1):
    source = np.random.default_rng(seed)
    return [source.integers(0, 2**64, length, dtype=np.uint64) for _ in range(count)]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("count", [3, 4, 5, 7, 10, 16, 31, 50])
@pytest.mark.parametrize("length", [0, 1, 2, 7, 1001])
def test_every_station_gets_the_exact_sum(machine, count, length):
    vectors = random_vectors(count, length)
    for part in play(machine, vectors, order=random.Random(count * length)):
        assert part.awaited is None
        assert np.array_equal(part.result, pooled(vectors))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_values_and_orders(data):
    count = data.draw(st.integers(3, 12))
    length = data.draw(st.integers(0, 9))
    extremes = st.sampled_from([0, 1, 2**63 - 1, 2**63, 2**64 - 1]) | st.integers(0, 2**64 - 1)
    vectors = [
        np.array(data.draw(st.lists(extremes, min_size=length, max_size=length)), dtype=np.uint64)
        for _ in range(count)
    ]
    order = random.Random(data.draw(st.integers(0, 2**32)))
    for machine in MACHINES:
        for part in play(machine, vectors, order=order):
            assert np.array_equal(part.result, pooled(vectors))


@pytest.mark.parametrize("count", [3, 5, 12])
def test_textbook_path_equals_the_fast_path_bit_for_bit(count):
    vectors = random_vectors(count, 1003)
    fast, textbook = play(DkSecureSum, vectors), play(TextbookDk, vectors)
    for one, other in zip(fast, textbook, strict=True):
        assert np.array_equal(one._held, other._held)
        assert np.array_equal(one.result, other.result)


def test_a_partial_that_overtakes_the_segments_is_kept():
    class Newest:
        @staticmethod
        def randrange(size):
            return size - 1

    vectors = random_vectors(5, 11)
    for part in play(DkSecureSum, vectors, order=Newest()):
        assert np.array_equal(part.result, pooled(vectors))


@pytest.mark.parametrize("machine", MACHINES)
def test_inputs_are_not_changed(machine):
    vectors = random_vectors(4, 9)
    copies = [vector.copy() for vector in vectors]
    play(machine, vectors)
    assert all(np.array_equal(one, other) for one, other in zip(vectors, copies, strict=True))


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("count", [1, 2])
def test_fewer_than_three_stations_are_refused(machine, count):
    with pytest.raises(TooFewStations):
        machine("station-00", names(count), np.zeros(1, np.uint64))


def test_dk_sends_no_more_than_the_bytes_it_states():
    count, length = 5, 10_000
    sent = dict.fromkeys(names(count), 0)

    def tap(sender, send):
        payload = send.payload
        sent[sender] += len(payload) if isinstance(payload, bytes) else payload.nbytes

    play(DkSecureSum, random_vectors(count, length), tap=tap)
    assert max(sent.values()) <= 2 * (count - 1) / count * length * 8 + 32 * (count - 1)


FIVE = np.arange(5, dtype=np.uint64)
SEED = bytes(32)


@pytest.mark.parametrize(
    ("machine", "me", "sender", "round_", "payload"),
    [
        (SecureSum, 1, "station-00", PASS, FIVE[:4]),
        (SecureSum, 1, "station-00", PASS, FIVE.astype(np.int64)),
        (SecureSum, 1, "station-00", PASS, FIVE.tobytes()),
        (SecureSum, 1, "station-02", PASS, FIVE),
        (SecureSum, 1, "station-02", RESULT, FIVE),
        (SecureSum, 1, "station-00", 7, FIVE),
        (SecureSum, 1, "stranger", PASS, FIVE),
        (SecureSum, 1, "station-01", PASS, FIVE),
        (DkSecureSum, 0, "station-01", SEGMENT, bytes(31)),
        (DkSecureSum, 0, "station-01", SEGMENT, FIVE),
        (DkSecureSum, 0, "station-01", PARTIAL, FIVE),
        (DkSecureSum, 0, "station-01", PARTIAL, FIVE[:1].reshape(1, 1)),
        (DkSecureSum, 0, "station-01", SUM, SEED),
        (DkSecureSum, 0, "stranger", SEGMENT, SEED),
        (DkSecureSum, 0, "station-01", 99, SEED),
    ],
)
def test_a_malformed_message_names_its_sender(machine, me, sender, round_, payload):
    part = machine(names(3)[me], names(3), FIVE)
    part.start()
    with pytest.raises(ProtocolError) as caught:
        part.receive(sender, round_, payload)
    assert caught.value.station == sender


@pytest.mark.parametrize("machine", MACHINES)
def test_a_duplicate_of_any_message_is_refused(machine):
    seen = []
    parts = play(
        machine, random_vectors(4, 8), tap=lambda sender, send: seen.append((sender, send))
    )
    for sender, send in seen:
        with pytest.raises(ProtocolError, match="second message") as caught:
            parts[names(4).index(send.to)].receive(sender, send.round, send.payload)
        assert caught.value.station == sender


def test_dk_hides_an_input_from_every_single_message():
    """With inputs all zero and all ones, what is sent has the same distribution: full bytes."""
    for value in (0, 2**64 - 1):
        partials = []
        play(
            DkSecureSum,
            [np.full(30_000, value, np.uint64)] * 3,
            tap=lambda _, send, out=partials: (
                out.append(send.payload) if send.round == PARTIAL else None
            ),
        )
        for partial in partials:
            histogram = np.bincount(partial.view(np.uint8), minlength=256)
            assert histogram.min() > 0.8 * histogram.mean()
            assert histogram.max() < 1.2 * histogram.mean()
