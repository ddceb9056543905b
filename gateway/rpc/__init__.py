"""The gRPC side: one method per RPC, streams of events, errors as statuses."""
