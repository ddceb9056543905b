"""The measured servers. Each module runs as a separate process."""
