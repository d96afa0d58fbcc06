"""One error tree: each error says what happened, why, and what to type next."""

from __future__ import annotations


class OverlayError(Exception):
    """Base of every error this product raises on purpose.

    Args:
        what: what happened, one sentence.
        why: the cause as far as it is known.
        next_step: the command or action that helps.
        station: the station the error is about, if one is known.
    """

    exit_code = 1

    def __init__(self, what: str, *, why: str = "", next_step: str = "", station: str = "") -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.next_step = next_step
        self.station = station

    @property
    def name(self) -> str:
        """The stable name of this kind of error, for scripts and for messages between peers."""
        return type(self).__name__

    def __str__(self) -> str:
        parts = [f"{self.name}: {self.what}"]
        if self.why:
            parts.append(f"because {self.why}")
        if self.next_step:
            parts.append(f"next: {self.next_step}")
        return "; ".join(parts)

    def as_dict(self) -> dict[str, str]:
        """Everything a JSON reader needs; never holds a secret or a data value."""
        return {
            "error": self.name,
            "what": self.what,
            "why": self.why,
            "next": self.next_step,
            "station": self.station,
        }


# --- operators: hosts, configuration, enrolment ---------------------------------------------


class UsageError(OverlayError):
    """A command was called with arguments or configuration that cannot work."""

    exit_code = 2


class MissingRequirement(OverlayError):
    """The host lacks a program, a privilege or a kernel feature."""


class HostError(OverlayError):
    """A system command or a daemon answered with an error."""


class Vantage6Refused(OverlayError):
    """The vantage6 server answered with anything but success."""


class IdentityError(OverlayError):
    """A certificate, key or name is not what it must be."""


class EnrolmentRefused(OverlayError):
    """The manager refused to admit a station; nothing was changed."""


class FingerprintMismatch(EnrolmentRefused):
    """The server's certificate is not the one that the join command names."""


class NotAdmitted(OverlayError):
    """The station did not give this container the overlay."""


# --- peers: what an algorithm may meet ------------------------------------------------------


class PeerError(OverlayError):
    """Something went wrong with another station of the same run."""


class PeerMissing(PeerError):
    """A peer did not appear before the rendezvous deadline."""


class PeerLost(PeerError):
    """A peer that was connected has gone, or is silent."""


class PeerLate(PeerError):
    """A connected peer did not deliver a message before its deadline."""


class PeerUnknown(PeerError):
    """Someone knocked who is not on the roster, or does not carry a roster member's identity."""


class PeerAborted(PeerError):
    """A peer refused to go on and said why."""


class ProtocolError(PeerError):
    """A peer sent bytes that the protocol does not allow."""


class TranscriptMismatch(PeerError):
    """The stations do not hold the same transcript; no result is released."""


# --- data: what a sum may refuse ------------------------------------------------------------


class DataError(OverlayError):
    """The station's own data cannot take part; the message never holds a data value."""


class TooFewStations(DataError):
    """The run has fewer stations than the protocol or the policy needs."""


class ColumnError(DataError):
    """A column is absent, or not numeric, or the stations do not agree on the columns."""


class MissingValues(DataError):
    """A column has missing values and the task did not say to leave them out."""


class EmptyStation(DataError):
    """A station has no rows."""


class OutOfBounds(DataError):
    """A value, or a station's total, exceeds the public bound or the ring's capacity."""


class ResultError(OverlayError):
    """A task's results are incomplete, failed or do not verify."""


# --- evidence: what a measurement may contradict --------------------------------------------


class EvidenceError(OverlayError):
    """A measurement does not show what this product promises."""


class CaptureFailed(EvidenceError):
    """A capture could not be made or read, or it lost packets, so it proves nothing."""


class WrongSum(EvidenceError):
    """A result differs from the pooled truth by more than the stated error."""


class PlaintextSeen(EvidenceError):
    """Overlay packets were seen on the outer network outside the encrypted path."""


class SharesAtServer(EvidenceError):
    """More crossed between a station and the server than a run without shares may send."""


class BlindMeasurement(EvidenceError):
    """A control run that must show something did not, so the measurement cannot be trusted."""
