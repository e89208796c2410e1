"""The running service against its own OpenAPI document, with valid and with invalid requests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from tests.integration.stack import RunningStack

# Three checks of schemathesis do not fit. `positive_data_acceptance` takes 422 for a refusal by the
# schema, but here it is also the answer about an image's bytes. `negative_data_rejection` sends
# numbers in forms, where they are text like any other; test_rest.py has the violations.
# `ignored_auth` needs keys; test_access.py has them.
CHECKS: Final = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)
# A deadline of one millisecond is valid, and its answer is 504.
CONFIG: Final = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "4xx", 504]
"""


def test_the_service_keeps_its_openapi_document(stack: RunningStack, tmp_path: Path) -> None:
    """Schemathesis finds no undocumented status or type, and no server error.

    No body departs from its schema.
    """
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    command = [
        str(Path(sys.executable).parent / "schemathesis"),
        *("--config-file", str(config)),
        *("run", f"{stack.url}/openapi.json"),
        *("--checks", ",".join(CHECKS)),
        *("--phases", "examples,coverage,fuzzing"),
        *("--max-examples", "25", "--max-time", "40", "--seed", "20240229"),
        *("--request-timeout", "30", "--generation-database", "none", "--no-color"),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
