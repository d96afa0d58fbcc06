"""Pure rules of what peers say to each other: no socket, file, clock or thread in here."""

from overlay.wire.decoder import Decoder, Incoming
from overlay.wire.frames import (
    HEADER_BYTES,
    MAX_CONTROL,
    MAX_FRAME,
    MAX_MESSAGE,
    Header,
    Kind,
    decode_header,
    encode_header,
    encode_message,
)
from overlay.wire.payload import (
    Payload,
    canonical_json,
    decode_payload,
    encode_payload,
    parse_json,
)
from overlay.wire.session import Half, Link, State
from overlay.wire.transcript import Transcript

__all__ = [
    "HEADER_BYTES",
    "MAX_CONTROL",
    "MAX_FRAME",
    "MAX_MESSAGE",
    "Decoder",
    "Half",
    "Header",
    "Incoming",
    "Kind",
    "Link",
    "Payload",
    "State",
    "Transcript",
    "canonical_json",
    "decode_header",
    "decode_payload",
    "encode_header",
    "encode_message",
    "encode_payload",
    "parse_json",
]
