"""What all tests share."""

from hypothesis import settings

# Deadlines measure the machine, not the code; the examples are the same in every run.
settings.register_profile("steady", deadline=None, derandomize=True)
settings.load_profile("steady")
