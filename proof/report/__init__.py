"""The report of a run: pure functions of its records."""
