"""Credentials of callers, the gateway token, and certificates."""
