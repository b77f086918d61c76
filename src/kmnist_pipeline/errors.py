"""The one base of all faults that a user can mend: shown as a message, without a traceback."""


class UserError(Exception):
    """Its message names the file, the key or the value at fault, and the way out."""
