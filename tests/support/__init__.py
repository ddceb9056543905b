"""Shared helpers of the tests: fakes, raw peers, and a gateway on real sockets."""
