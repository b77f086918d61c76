"""Which weights are validated and kept in place of the trained ones, one a module."""
