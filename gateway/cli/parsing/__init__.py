"""The reading of a command line with Typer: help, examples, values, and the settings of `serve`."""
