"""The service as a process: settings from the environment, the application, its exit status."""

from __future__ import annotations

import signal
import sys

from pydantic import ValidationError

from frontend import logs
from frontend.app import create_app
from frontend.http import serve
from frontend.http.keys import KeysInvalid
from frontend.settings import Settings


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
