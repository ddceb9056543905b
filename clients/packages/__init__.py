"""The client packages: each is built as an artifact, and its example runs from that artifact."""
