"""What `local` raises on purpose."""


class LocalError(Exception):
    """Something is missing, taken or does not start; the message is printed as one line."""
