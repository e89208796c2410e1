"""Redis over TLS, set up by the URL alone.

TLS ends in a proxy, because the redis-server from pip is built without TLS.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from typing import TYPE_CHECKING

import pytest

from model_boss import LedgerUnavailable
from tests.integration.model_boss.proxy import Proxy
from tests.integration.model_boss.test_ledger import GPU, opened

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.model_boss.servers import RedisServer


@pytest.mark.skipif(not shutil.which("openssl"), reason="a certificate is made with the openssl command")
async def test_tls_is_used_and_the_certificate_checked(server: RedisServer, tmp_path: Path) -> None:
    """`rediss://` connects with the right certificate authority; else nothing is sent."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(  # noqa: ASYNC221 - nothing else runs yet
        [
            *("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"),
            *("-keyout", str(key), "-out", str(certificate), "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate, key)
    async with Proxy(server.port, tls) as proxy:
        url = proxy.url.replace("redis://", "rediss://")
        async with opened(f"{url}?ssl_ca_certs={certificate}", begun=False) as ledger:
            assert (await ledger.table(GPU)).held_mb == 0
        async with opened(url, begun=False) as ledger:
            with pytest.raises(
                LedgerUnavailable, match=r"CERTIFICATE_VERIFY_FAILED|certificate verify failed"
            ):
                await ledger.table(GPU)
