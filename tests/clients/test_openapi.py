"""clients/openapi.json is what the service says of itself, and what generators can work with."""

from __future__ import annotations

import json
import runpy
from typing import Any

from tests.repository import CHECKOUT

FILE = CHECKOUT / "clients/openapi.json"


def test_the_file_is_not_stale() -> None:
    """`python clients/generate.py` writes it."""
    document = runpy.run_path(str(CHECKOUT / "clients/generate.py"))["document"]()
    assert FILE.read_text() == document


def test_operations_have_names_and_kinds() -> None:
    """Generated methods are called score, scoreBatch, info and health."""
    operations = [item for path in _document()["paths"].values() for item in path.values()]
    names = [operation["operationId"] for operation in operations]
    assert {"score", "scoreBatch", "info", "health"} <= set(names)
    assert len(set(names)) == len(names)
    assert all(operation["tags"] for operation in operations)


def test_what_need_not_be_sent_has_no_default() -> None:
    """A generator takes a field with a default for one that is always there."""
    schemas = _document()["components"]["schemas"]
    for name in ("ScoreRequest", "Candidate", "BatchRequest", "Problem"):
        for field in schemas[name]["properties"].values():
            assert "default" not in field


def test_keys_are_described() -> None:
    """Both headers, neither of them needed everywhere; health needs none at all."""
    document = _document()
    schemes = document["components"]["securitySchemes"]
    assert schemes["bearer"]["scheme"] == "bearer"
    assert schemes["apiKey"]["name"] == "X-API-Key"
    assert {} in document["security"]
    assert document["paths"]["/health"]["get"]["security"] == []


def test_codes_are_enumerated() -> None:
    """For whole answers and for single candidates."""
    schemas = _document()["components"]["schemas"]
    assert {"overloaded", "image_undecodable"} <= set(schemas["ErrorCode"]["enum"])
    for name in ("Problem", "ErrorInfo"):
        assert schemas[name]["properties"]["code"] == {"$ref": "#/components/schemas/ErrorCode"}


def test_every_error_is_described_with_an_example() -> None:
    """For every status of an endpoint, the document names the codes and has an example of each."""
    document = _document()
    responses = document["paths"]["/score"]["post"]["responses"]
    codes = {
        code: example["value"]
        for status, response in responses.items()
        if status != "200"
        for code, example in response["content"]["application/problem+json"]["examples"].items()
    }
    elsewhere = {"not_found", "method_not_allowed"}
    assert set(codes) | elsewhere == set(document["components"]["schemas"]["ErrorCode"]["enum"])
    assert codes["overloaded"]["retryable"]
    assert not codes["image_undecodable"]["retryable"]


def _document() -> Any:
    return json.loads(FILE.read_text())
