"""`doctor`: find what is wrong between this machine and a gateway.

The checks use sockets, TLS and HTTP/2 directly, because gRPC's library hides the frames that show who ended a stream.
Only `calls` uses the Python client.
"""
