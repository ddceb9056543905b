"""What is measured: each module has `run(quick)`, which returns the rows of the table that it fills."""
