"""The gRPC side: one method per RPC, event streams, and errors as statuses."""
