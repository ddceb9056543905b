"""The command line: a server, an upstream to try it with, and a client of the gateway."""
