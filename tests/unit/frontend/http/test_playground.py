"""The page at `/`, as it is delivered; tests/clients/browser uses it in a browser."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from frontend.app import create_app
from frontend.http.keys import key_line
from frontend.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path

FILES = ("gallery.js", "icon.svg", "page.css", "page.js", "pictures.js", "service.js", "theme.js")
TYPES = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}


def _client(**settings: Any) -> httpx.AsyncClient:
    transport = httpx.ASGITransport(create_app(Settings(**settings)))
    return httpx.AsyncClient(transport=transport, base_url="http://service")


@pytest.mark.parametrize("prefix", ["", "/v1"])
async def test_the_page_and_its_files(prefix: str) -> None:
    """The page loads its own files alone, by paths that hold under `/v1`, too, with their types."""
    async with _client() as client:
        page = await client.get(f"{prefix}/")
        loaded = set(re.findall(r'(?:src|href)="([^"]+)"', page.text)) - {"docs"}
        files = {name: await client.get(f"{prefix}/static/{name}") for name in FILES}
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    imported = {f"static/{name}" for file in files.values() for name in _imports(file.text)}
    assert loaded | imported == {f"static/{name}" for name in FILES}
    for name, file in files.items():
        assert file.status_code == 200, name
        assert file.headers["content-type"].split(";")[0] == TYPES[name.split(".")[1]]
        assert file.headers["x-content-type-options"] == "nosniff"


def _imports(script: str) -> list[str]:
    return re.findall(r'from "\./([^"]+)"', script)


async def test_the_pages_policy() -> None:
    """Nothing inline runs, nothing comes from or goes to another host, and no form is sent.

    No script can turn text into markup.
    """
    async with _client() as client:
        page = await client.get("/")
        files = [(await client.get(f"/static/{name}")).text for name in FILES]
    policy = dict(part.strip().split(" ", 1) for part in page.headers["content-security-policy"].split(";"))
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' blob: data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
        "require-trusted-types-for": "'script'",
        "trusted-types": "'none'",
    }
    assert not re.search(r"<style|\bstyle=|\bon\w+=|<script(?![^>]*\bsrc=)", page.text)
    hosts = re.findall(r"https?://[\w.-]+", "".join([page.text, *files]))
    assert set(hosts) <= {"http://www.w3.org"}  # the name of SVG's elements


async def test_the_page_needs_no_key(tmp_path: Path) -> None:
    """Where keys are configured, the page and its files are there for everybody.

    It has no link to `/docs` then, for which a browser has no key.
    """
    keys = tmp_path / "keys"
    keys.write_text(key_line("somebody", "a key of sufficient length") + "\n")
    async with _client() as open_to_all, _client(api_keys_file=keys) as locked:
        for path in ("/", *(f"/static/{name}" for name in FILES)):
            assert (await locked.get(path)).status_code == 200
        assert 'href="docs"' in (await open_to_all.get("/")).text
        assert 'href="docs"' not in (await locked.get("/")).text


async def test_what_is_no_file_of_the_page() -> None:
    """Other names are 404, and with AESTHETIC_DOCS=false all of them are."""
    async with _client() as client, _client(docs=False) as without:
        for name in ("page.html", "nothing.js", "..%2fapp.py", ".", ""):
            assert (await client.get(f"/static/{name}")).status_code == 404, name
        for path in ("/", "/v1/", "/static/page.js"):
            assert (await without.get(path)).status_code == 404
