"""What `demo` raises on purpose, beside what it calls in `export` and `reward`."""


class DemoError(Exception):
    """A training cannot begin, or go on, as asked; the message is printed as one line."""
