"""A payload is bytes, a plain number array or a small JSON object; nothing is ever unpickled.

Every payload is a 64-byte prefix (kind u8, dtype u8, ndim u8, five zeros, seven u64 of shape with
unused ones zero) and its content, so numbers stay aligned inside the message that brought them.
"""

from __future__ import annotations

import json
import math
import struct
from typing import Any

import numpy as np
import numpy.typing as npt

from overlay.errors import ProtocolError, UsageError

Payload = bytes | npt.NDArray[Any] | dict[str, Any]

MAX_JSON = 1 << 20
MAX_NDIM = 7
_PREFIX = struct.Struct("<BBB5s7Q")
_BYTES, _ARRAY, _JSON = 1, 2, 3
_PAD = b"\0" * 5
_NO_SHAPE = (0,) * MAX_NDIM

# Codes are part of the wire format: append, never reorder.
DTYPES = tuple(
    np.dtype(name)
    for name in ("<u8", "<i8", "<f8", "<u4", "<i4", "<f4", "<u2", "<i2", "|u1", "|i1")
)
_CODES = {dtype: code for code, dtype in enumerate(DTYPES)}


def encode_payload(value: Payload) -> tuple[bytes, memoryview]:
    """The prefix and the content of `value`; the content shares memory with it where it can.

    Args:
        value: bytes, an array of integers or floats of 1 to 8 bytes with at most 7 dimensions (any
            byte order or stride), or a dict that JSON can hold (at most 1 MiB).

    Raises:
        UsageError: the value is of another kind.
    """
    if isinstance(value, dict):
        raw = canonical_json(value)
        if len(raw) > MAX_JSON:
            raise UsageError("a message is too large for JSON", next_step="send it as an array")
        return _PREFIX.pack(_JSON, 0, 0, _PAD, *_NO_SHAPE), memoryview(raw)
    if isinstance(value, np.ndarray):
        code = _CODES.get(value.dtype.newbyteorder("<"))
        if code is None or value.ndim > MAX_NDIM:
            raise UsageError(
                "an array cannot be sent",
                why=f"dtype {value.dtype} with {value.ndim} dimensions",
                next_step="use integers or floats of at most 64 bits and 7 dimensions",
            )
        shape = value.shape + (0,) * (MAX_NDIM - value.ndim)
        flat = np.ascontiguousarray(value, dtype=DTYPES[code]).reshape(-1)
        return _PREFIX.pack(_ARRAY, code, value.ndim, _PAD, *shape), flat.view(np.uint8).data
    if isinstance(value, bytes | bytearray | memoryview):
        return _PREFIX.pack(_BYTES, 0, 0, _PAD, *_NO_SHAPE), memoryview(value).cast("B")
    raise UsageError(
        "a message cannot be sent",
        why=f"it is a {type(value).__name__}",
        next_step="send bytes, a numpy array or a dict",
    )


def decode_payload(body: bytes | bytearray | memoryview) -> Payload:
    """The value in a message's body; an array shares the body's memory.

    Raises:
        ProtocolError: the body is not a payload in its one allowed form.
    """
    view = memoryview(body).cast("B")
    if len(view) < _PREFIX.size:
        raise ProtocolError("a payload is too short")
    kind, code, ndim, pad, *shape = _PREFIX.unpack(view[: _PREFIX.size])
    content = view[_PREFIX.size :]
    if pad != _PAD or any(shape[ndim:]):
        raise ProtocolError("a payload's prefix is malformed")
    if kind == _ARRAY:
        if code >= len(DTYPES) or ndim > MAX_NDIM:
            raise ProtocolError("an array is of a type that is not allowed")
        dims = shape[:ndim]
        if math.prod(dims) * DTYPES[code].itemsize != len(content):
            raise ProtocolError("an array's shape does not fit its bytes")
        try:
            return np.ndarray(dims, dtype=DTYPES[code], buffer=content)
        except (ValueError, OverflowError) as error:
            raise ProtocolError("an array's shape is impossible", why=str(error)) from None
    if code or ndim:
        raise ProtocolError("a payload's prefix is malformed")
    if kind == _BYTES:
        return bytes(content)
    if kind == _JSON:
        return parse_json(content)
    raise ProtocolError("a payload is of unknown kind", why=f"kind {kind}")


def canonical_json(value: dict[str, Any]) -> bytes:
    """The one JSON form of `value`: ASCII, sorted keys, no spaces; what gets signed and hashed.

    Raises:
        UsageError: JSON cannot hold the value (NaN and infinities included).
    """
    try:
        text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError("a message is not JSON", why=str(error)) from None
    return text.encode("ascii")


def parse_json(raw: bytes | memoryview) -> dict[str, Any]:
    """The JSON object in `raw`, at most 1 MiB.

    Raises:
        ProtocolError: not one JSON object, a key twice, or a number that JSON does not have.
    """
    if len(raw) > MAX_JSON:
        raise ProtocolError("a JSON message is too large")
    try:
        value = json.loads(
            str(raw, "ascii"), object_pairs_hook=_unique, parse_constant=_no_constant
        )
    except (ValueError, RecursionError) as error:
        raise ProtocolError("a message is not JSON", why=type(error).__name__) from None
    if not isinstance(value, dict):
        raise ProtocolError("a JSON message is not an object")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("a key occurs twice")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(name)
