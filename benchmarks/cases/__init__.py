"""The cases. Each module has `run(quick)`, which returns the rows of its measurements."""
