"""What a check found."""

from dataclasses import dataclass
from enum import StrEnum

from cfpp.errors import masked


class Level(StrEnum):
    """How bad it is: fine, worth knowing, or in the way."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's; made by `ok`, `warning` and `problem`, which mask the passwords in URIs.

    Attributes:
        subject: what was looked at, in a word or two.
        level: how bad it is.
        message: what was found.
        remedy: what to do about it; "" where all is well.
    """

    subject: str
    level: Level
    message: str
    remedy: str = ""


def ok(subject: str, message: str) -> Finding:
    """All is well."""
    return Finding(subject, Level.OK, masked(message))


def warning(subject: str, message: str, remedy: str) -> Finding:
    """It works, but less well than it could, or not for long."""
    return Finding(subject, Level.WARNING, masked(message), masked(remedy))


def problem(subject: str, message: str, remedy: str) -> Finding:
    """Something will fail."""
    return Finding(subject, Level.PROBLEM, masked(message), masked(remedy))
