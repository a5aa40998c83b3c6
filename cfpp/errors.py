"""The root of every error that a person can mend."""


class MendableError(Exception):
    """Wrong params, data or weights. Its message names the file or key at fault and says what to do, so the
    commands show it as one line; any other exception is a defect of the project and keeps its traceback."""
