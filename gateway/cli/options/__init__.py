"""The options that commands share, and the sources of their values: variables, files and contexts."""
