"""The REST door on port 8006; `python -m frontend`.

docs/architecture.md tells a request's way through it.
"""
