"""Credentials of callers, the gateway's own token, and certificates."""
