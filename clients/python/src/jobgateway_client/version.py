"""The version of the client, which is that of the contract."""

__version__ = "0.1.0"
