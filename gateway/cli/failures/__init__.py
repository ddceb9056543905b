"""The lines and exit codes of failures."""
