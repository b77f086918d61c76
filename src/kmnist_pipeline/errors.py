"""The base class of all errors that a user can fix; shown as a message, without a traceback."""


class UserError(Exception):
    """Its message names the wrong file, key or value, and says what to do."""
