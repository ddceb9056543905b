"""Runs the clients through real proxies while gateways and proxies fail; behind `make mesh`."""
