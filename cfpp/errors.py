"""The root of every error that a person can mend, and what no message may show."""

import re

# a password may hold an @, and where a : begins it, a / too
_USERINFO = re.compile(r"(?<=://)(?:[^/:@\s]*:\S*|[^/@\s]*)@")


def masked(text: str) -> str:
    """The text without the names and passwords in its URIs: http://***@host for http://user:password@host."""
    return _USERINFO.sub("***@", text)


class MendableError(Exception):
    """Wrong params, data or weights. Its message names the file or key at fault and says what to do, so the
    commands show it as one line; any other exception is a defect of the project and keeps its traceback."""
