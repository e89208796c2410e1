"""The REST API on port 8006; `python -m frontend`.

docs/architecture.md describes a request's way through it.
"""
