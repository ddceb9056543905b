"""Messages, JSON and resume tokens: pure functions between protobuf and the models."""
