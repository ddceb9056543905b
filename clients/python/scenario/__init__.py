"""The programs that the runner starts (clients/README.md). They are not part of the package."""
