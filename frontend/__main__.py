"""`python -m frontend`: serve the REST door; configured by AESTHETIC_* alone."""

from __future__ import annotations

import sys

import uvicorn
from pydantic import ValidationError

from frontend import logs
from frontend.app import create_app
from frontend.settings import Settings


def main() -> int:
    """Serve until SIGINT or SIGTERM."""
    try:
        settings = Settings()
    except ValidationError as error:
        for item in error.errors():
            name = "_".join(str(part) for part in item["loc"]).upper()
            print(f"error: AESTHETIC_{name}: {item['msg']}", file=sys.stderr)
        return 1
    logs.configure()
    uvicorn.run(
        create_app(settings),
        host=settings.host,
        port=settings.port,
        log_config=None,
        server_header=False,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_s)),
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
