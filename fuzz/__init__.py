"""Fuzz targets: each module has a `check(data)` that raises if a promise is broken. `make fuzz` runs them all."""

TARGETS = ("rest_answers", "retry_after", "resume_tokens", "error_texts", "json_values")
