"""`python -m frontend`: serve the REST API, configured only by AESTHETIC_* variables.

`python -m frontend hash-key NAME` makes the line of an API key for AESTHETIC_API_KEYS_FILE.
"""

from __future__ import annotations

import getpass
import secrets
import signal
import sys

from pydantic import ValidationError

from frontend import logs
from frontend.app import create_app
from frontend.http import serve
from frontend.http.keys import KeysInvalid, key_line
from frontend.settings import Settings


def main(arguments: list[str]) -> int:
    """Serve until SIGINT or SIGTERM, or make a key's line."""
    match arguments:
        case []:
            return run()
        case ["hash-key", name]:
            return hash_key(name)
    print("usage: python -m frontend [hash-key NAME]", file=sys.stderr)
    return 2


def run() -> int:
    """Serve until SIGINT or SIGTERM; running requests are finished within the grace period."""
    # uvicorn raises the signal once more when it is done. This handler makes the exit status 0
    # then.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    logs.let_lines_be_lost()
    logs.configure()
    try:
        settings = Settings()
        app = create_app(settings)
    except ValidationError as error:
        for item in error.errors():
            name = "_".join(str(part) for part in item["loc"]).upper()
            message = item["msg"].removeprefix("Value error, ")
            print(f"error: AESTHETIC_{name}: {message}" if name else f"error: {message}", file=sys.stderr)
        return 1
    except KeysInvalid as error:
        print(f"error: AESTHETIC_API_KEYS_FILE: {error}", file=sys.stderr)
        return 1
    try:
        serve.serve(
            app,
            host=settings.host,
            port=settings.port,
            grace_s=settings.shutdown_grace_s,
            delay_s=settings.shutdown_delay_s,
            on_ending=lambda: app.state.services.monitor.say_it_ends(),  # noqa: PLW0108 - not opened yet
        )
    except OSError as error:
        print(f"error: {settings.host}:{settings.port}: {error}", file=sys.stderr)
        return 1
    return 0


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
