"""Triton over HTTP: inference, the served version, a circuit breaker, model control."""
