"""The work of `dev`, `demo`, `simulate` and `serve --check`."""
