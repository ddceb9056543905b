"""The gRPC server and its process. Imports nothing: signals are blocked before the slow imports."""
