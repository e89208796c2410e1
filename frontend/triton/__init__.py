"""Triton over HTTP: inference, the served versions, a circuit breaker, model control."""
