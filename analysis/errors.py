"""The operator's mistake, wherever it is found: one line that says what and what to do, then exit 2."""


class InputError(Exception):
    """One line for stderr."""
