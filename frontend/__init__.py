"""The REST door on port 8006; `python -m frontend`. Requests pass `routes`, `pipeline`, `scorer`."""
