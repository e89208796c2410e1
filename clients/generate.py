"""Write clients/openapi.json, from which the clients' types are generated.

    python clients/generate.py && clients/typescript/npm.sh run generate

The tests of `make test-clients` say when one of them is stale.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

CLIENTS: Final = Path(__file__).parent
sys.path.insert(0, str(CLIENTS.parent))

from frontend.app import create_app  # noqa: E402 - found by the line above
from frontend.settings import Settings  # noqa: E402


def main() -> None:
    """Write the file."""
    (CLIENTS / "openapi.json").write_text(document(), encoding="utf-8")


def document() -> str:
    """Return the document of a service with ordinary settings."""
    app = create_app(Settings())
    return json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    main()
