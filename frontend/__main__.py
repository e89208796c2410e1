"""`python -m frontend`: serve the REST API, configured only by AESTHETIC_* variables.

`python -m frontend hash-key NAME` makes the line of an API key for AESTHETIC_API_KEYS_FILE.
"""

from __future__ import annotations

import getpass
import secrets
import sys

from frontend.http.keys import KeysInvalid, key_line


def main(arguments: list[str]) -> int:
    """Serve until SIGINT or SIGTERM, or make a key's line."""
    match arguments:
        case []:
            from frontend.service import run  # noqa: PLC0415 - a key's line is made without

            return run()
        case ["hash-key", name]:
            return hash_key(name)
    print("usage: python -m frontend [hash-key NAME]", file=sys.stderr)
    return 2


def hash_key(name: str) -> int:
    """Write the line of a key, which a terminal is asked for, or which standard input holds."""
    if sys.stdin.isatty():
        key = getpass.getpass("key, or nothing but Enter for a new one: ", sys.stderr).strip()
        if not key:
            key = secrets.token_urlsafe(32)
            print(f"new key, shown only now: {key}", file=sys.stderr)
    else:
        print("the key is read from standard input", file=sys.stderr)
        key = sys.stdin.readline().strip()
    if len(key) < 16:
        print("error: a key has 16 characters or more", file=sys.stderr)
        return 1
    try:
        print(key_line(name, key))
    except KeysInvalid as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
