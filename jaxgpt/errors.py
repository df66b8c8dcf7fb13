"""The one exception that a user may see.

Every command turns a `UserError` into one sentence on stderr and exit code 2, so its text names the file and line or
the field, both values, and the way out.
"""


class UserError(ValueError):
    """Input, options or files that do not fit; nothing was damaged and the message says what to do."""
