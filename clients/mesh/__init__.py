"""`make mesh`: run the clients through real proxies while gateways and proxies fail."""
