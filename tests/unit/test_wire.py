"""Frames, decoder, session table, payloads and transcript: round trips and refusals."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from overlay.errors import ProtocolError, UsageError
from overlay.wire import (
    HEADER_BYTES,
    MAX_CONTROL,
    MAX_FRAME,
    MAX_MESSAGE,
    Decoder,
    Half,
    Header,
    Kind,
    Link,
    State,
    Transcript,
    canonical_json,
    decode_header,
    decode_payload,
    encode_header,
    encode_message,
    encode_payload,
    parse_json,
)
from overlay.wire.payload import DTYPES
from overlay.wire.session import NEXT

u32 = st.integers(0, 2**32 - 1)
u64 = st.integers(0, 2**64 - 1)
LINK = Link(task=3, sender=5, receiver=7)
ENDS = {"task": 3, "sender": 5, "receiver": 7}


@st.composite
def headers(draw):
    kind = draw(st.sampled_from(Kind))
    if kind is Kind.DATA:
        total = draw(st.integers(0, MAX_MESSAGE))
        length = draw(st.integers(min(1, total), min(total, MAX_FRAME)))
        offset = draw(st.integers(0, total - length))
    else:
        total = length = 0 if kind in (Kind.HEARTBEAT, Kind.BYE) else draw(st.integers(0, 65536))
        offset = 0
    ids = [draw(u64) for _ in range(3)]
    return Header(kind, *ids, draw(u32), draw(u64), total, offset, length)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(st.text(), json_values, max_size=5)
arrays = hnp.arrays(
    st.sampled_from(DTYPES), hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5)
)


def body_of(value):
    prefix, content = encode_payload(value)
    return prefix + bytes(content)


@given(headers())
def test_a_header_survives_its_encoding(header):
    raw = encode_header(header)
    assert len(raw) == HEADER_BYTES == 64
    assert decode_header(raw) == header


@given(st.binary(max_size=300), st.integers(1, 70))
def test_random_bytes_raise_only_protocol_error(data, step):
    decoder = Decoder()
    try:
        for start in range(0, len(data), step):
            decoder.feed(data[start : start + step])
    except ProtocolError:
        with pytest.raises(ProtocolError):
            decoder.feed(b"x")


@given(headers(), st.integers(0, 63), st.integers(0, 255))
def test_a_changed_byte_raises_only_protocol_error(header, place, value):
    raw = bytearray(encode_header(header))
    raw[place] = value
    with contextlib.suppress(ProtocolError):
        assert encode_header(decode_header(raw)) == raw


@given(
    st.lists(
        st.tuples(st.sampled_from([Kind.DATA, Kind.HELLO, Kind.ABORT]), st.binary()), max_size=5
    ),
    st.data(),
)
def test_a_stream_cut_anywhere_gives_the_same_messages(messages, data):
    stream = b"".join(b"".join(encode_message(kind, body, **ENDS)) for kind, body in messages)
    decoder, got = Decoder(), []
    while stream:
        step = data.draw(st.integers(1, len(stream)))
        got += decoder.feed(stream[:step])
        stream = stream[step:]
    assert [(m.header.kind, bytes(m.body)) for m in got] == messages


def test_a_long_message_travels_in_chunks_and_heartbeats_may_stand_between():
    body = bytes(range(256)) * 10_000
    frames = list(encode_message(Kind.DATA, body, **ENDS))
    assert [len(f) - HEADER_BYTES for f in frames] == [
        MAX_FRAME,
        MAX_FRAME,
        2_560_000 - 2 * MAX_FRAME,
    ]
    (heartbeat,) = encode_message(Kind.HEARTBEAT, b"", **ENDS)
    got = Decoder().feed(heartbeat.join(frames))
    assert [m.header.kind for m in got] == [Kind.HEARTBEAT, Kind.HEARTBEAT, Kind.DATA]
    assert got[-1].body == body


@pytest.mark.parametrize("order", [[0, 2, 1], [0, 0, 1], [1, 2]])
def test_chunks_out_of_place_are_refused(order):
    frames = list(encode_message(Kind.DATA, bytes(3 * MAX_FRAME), **ENDS))
    with pytest.raises(ProtocolError):
        Decoder().feed(b"".join(frames[i] for i in order))


@pytest.mark.parametrize(
    "header",
    [
        Header(Kind.DATA, 1, 1, 1, 0, 0, MAX_MESSAGE + 1, 0, 1),
        Header(Kind.DATA, 1, 1, 1, 0, 0, MAX_MESSAGE, 0, MAX_FRAME + 1),
        Header(Kind.DATA, 1, 1, 1, 0, 0, 10, 5, 6),
        Header(Kind.DATA, 1, 1, 1, 0, 0, 10, 5, 0),
        Header(Kind.HELLO, 1, 1, 1, 0, 0, MAX_CONTROL + 1, 0, MAX_CONTROL + 1),
        Header(Kind.BYE, 1, 1, 1, 0, 0, 1, 0, 1),
        Header(Kind.DATA, -1, 1, 1, 0, 0, 0, 0, 0),
        Header(Kind.DATA, 1, 1, 1, 2**32, 0, 0, 0, 0),
    ],
)
def test_headers_beyond_bounds_are_refused(header):
    with pytest.raises(ProtocolError):
        encode_header(header)


def test_nothing_is_set_aside_for_a_refused_header():
    def refuse(header):
        raise ProtocolError("no")

    first = next(encode_message(Kind.DATA, bytes(2 * MAX_FRAME), **ENDS))
    with pytest.raises(ProtocolError, match="no"):
        Decoder(refuse).feed(first[:HEADER_BYTES])


# --- session --------------------------------------------------------------------------------


def test_a_session_that_keeps_the_rules():
    mine, theirs = Half(LINK), Half(LINK)
    decoder = Decoder(theirs.accept)
    for kind in (Kind.HELLO, Kind.HEARTBEAT, Kind.DATA, Kind.BYE):
        decoder.feed(mine.stamp(kind))
    assert mine.state is theirs.state is State.ENDED
    assert mine.sequence == theirs.sequence == 4


@pytest.mark.parametrize("field", ["task", "sender", "receiver", "sequence"])
def test_a_frame_bound_elsewhere_is_refused_by_name(field):
    header = decode_header(Half(LINK).stamp(Kind.HELLO))
    Half(LINK).accept(header)  # the twin
    with pytest.raises(ProtocolError, match=f"wrong {field}"):
        Half(LINK).accept(header._replace(**{field: 99}))


def test_a_replayed_frame_is_refused():
    mine, theirs = Half(LINK), Half(LINK)
    theirs.accept(decode_header(mine.stamp(Kind.HELLO)))
    data = decode_header(mine.stamp(Kind.DATA))
    theirs.accept(data)
    with pytest.raises(ProtocolError, match="wrong sequence"):
        theirs.accept(data)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", Kind)
def test_only_the_table_moves_a_session(state, kind):
    half = Half(LINK)
    half.state = state
    if (state, kind) in NEXT:
        half.stamp(kind)
        assert half.state is NEXT[state, kind]
    else:
        with pytest.raises(ProtocolError, match="out of place"):
            half.stamp(kind)


# --- payloads -------------------------------------------------------------------------------


@given(arrays)
def test_an_array_survives(array):
    got = decode_payload(body_of(array))
    assert got.dtype == array.dtype
    assert got.shape == array.shape
    assert got.tobytes() == array.tobytes()


@given(st.binary() | json_objects)
def test_bytes_and_json_survive(value):
    assert decode_payload(body_of(value)) == value


def test_strides_and_byte_order_do_not_matter():
    array = np.arange(24, dtype=">i4").reshape(4, 6)[::2, 1:4]
    np.testing.assert_array_equal(decode_payload(body_of(array)), array)


def test_encoding_a_plain_array_copies_nothing():
    array = np.arange(5, dtype=np.uint64)
    _, content = encode_payload(array)
    array[0] = 77
    assert bytes(content[:8]) == (77).to_bytes(8, "little")


@given(st.binary(max_size=200))
def test_random_payloads_raise_only_protocol_error(raw):
    with contextlib.suppress(ProtocolError):
        decode_payload(raw)


@given(arrays | json_objects, st.integers(0, 63), st.integers(0, 255))
def test_a_changed_prefix_raises_only_protocol_error(value, place, byte):
    raw = bytearray(body_of(value))
    raw[place] = byte
    with contextlib.suppress(ProtocolError):
        decode_payload(raw)


@pytest.mark.parametrize(
    "raw", [b"[1]", b'{"a":1,"a":2}', b'{"a":NaN}', b"{", b"\xff", b"[" * 99_999]
)
def test_json_in_another_form_is_refused(raw):
    with pytest.raises(ProtocolError):
        parse_json(raw)


@pytest.mark.parametrize(
    "value",
    [
        np.array(["a"]),
        np.array([None]),
        np.zeros(1, "c16"),
        np.array([True]),
        3,
        {"a": {1}},
        {"a": float("nan")},
        np.zeros((1,) * 8),
    ],
)
def test_what_cannot_travel_is_refused_before_it_is_sent(value):
    with pytest.raises(UsageError):
        encode_payload(value)


def test_canonical_json_has_one_form():
    assert canonical_json({"b": 1, "a": "é"}) == b'{"a":"\\u00e9","b":1}'


# --- transcript -----------------------------------------------------------------------------

facts = st.lists(st.tuples(st.text(), st.binary() | st.text() | st.integers()), max_size=4)


def digest(items):
    transcript = Transcript()
    for label, fact in items:
        transcript.add(label, fact)
    return transcript.hexdigest()


@given(facts, facts)
def test_transcripts_agree_only_on_equal_facts(one, other):
    assert (digest(one) == digest(other)) == (one == other)


def test_the_digest_is_fixed_across_versions():
    items = [("columns", {"b": [1], "a": "x"}), ("n", 3), ("name", "x"), ("commit", b"\0")]
    assert digest(items) == "3de1afd1e0008c23ea789bfe57987d36e217df8c170eae0c7aa6772d6d63ed56"
