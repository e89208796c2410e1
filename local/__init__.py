"""The whole stack on one machine, without containers: `python -m local up`."""
