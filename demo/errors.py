"""What `demo` raises on purpose, apart from the errors of `export` and `reward`."""


class DemoError(Exception):
    """A training cannot begin, or go on, as asked; the message is printed as one line."""
