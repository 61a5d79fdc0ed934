"""The inference service: REST in front of a dynamic request batcher."""
