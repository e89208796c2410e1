"""`python -m frontend`: serve the REST API, configured only by AESTHETIC_* variables.

`python -m frontend hash-key NAME` makes the line of an API key for AESTHETIC_API_KEYS_FILE.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import sys
from typing import TYPE_CHECKING

import uvicorn
from pydantic import ValidationError

from frontend import logs
from frontend.app import create_app
from frontend.http.keys import KeysInvalid, key_line
from frontend.settings import Settings

if TYPE_CHECKING:
    from types import FrameType

    from fastapi import FastAPI


def main(arguments: list[str]) -> int:
    """Serve until SIGINT or SIGTERM, or make a key's line."""
    match arguments:
        case []:
            return serve()
        case ["hash-key", name]:
            return hash_key(name)
    print("usage: python -m frontend [hash-key NAME]", file=sys.stderr)
    return 2


def serve() -> int:
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
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_s)),
    )
    server = EndingServer(config, app, delay_s=settings.shutdown_delay_s)
    server.run()
    return 0 if server.started else 3


class EndingServer(uvicorn.Server):
    """A server that is not ready for a while before it ends, so that a proxy sends it no more."""

    def __init__(self, config: uvicorn.Config, app: FastAPI, *, delay_s: float) -> None:
        """Prepare a server of `app` that ends `delay_s` after the first SIGTERM."""
        super().__init__(config)
        self._app = app
        self._delay_s = delay_s
        self._is_ending = False

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End, or begin to; a second signal ends at once."""
        if sig != signal.SIGTERM or self._is_ending or not self.started or not self._delay_s:
            super().handle_exit(sig, frame)
            return
        self._is_ending = True
        self._app.state.services.monitor.say_it_ends()
        # The loop looks at its timers ten times a second, also where a signal came in between.
        asyncio.get_running_loop().call_later(self._delay_s, super().handle_exit, sig, frame)


def hash_key(name: str) -> int:
    """Write the line of the key on standard input; at a terminal, of a new key."""
    if sys.stdin.isatty():
        key = secrets.token_urlsafe(32)
        print(f"key, shown only now: {key}", file=sys.stderr)
    else:
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
