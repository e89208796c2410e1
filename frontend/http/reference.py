"""`/docs`: the OpenAPI document as one page of plain HTML, without scripts and without anything from elsewhere."""

from __future__ import annotations

from html import escape
from typing import Any, Final

CONTENT_SECURITY_POLICY: Final = (
    "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; frame-ancestors 'none'"
)

_STYLE: Final = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 3rem; } code, td:first-child { font-family: ui-monospace, monospace; }
table { border-collapse: collapse; width: 100%; } h3 { margin: 2rem 0 0.5rem; }
td, th { border-bottom: 1px solid #8884; padding: 0.3rem 0.8rem 0.3rem 0; text-align: left; vertical-align: top; }
:root { color-scheme: light dark; }
"""


def render(document: dict[str, Any]) -> str:
    """Write the page: every operation, then every schema that one of them names."""
    info = document["info"]
    parts = [
        f"<h1>{escape(info['title'])} {escape(info['version'])}</h1>",
        f"<p>{escape(info.get('summary', ''))}</p>",
        "<p>For tools: <a href='openapi.json'>openapi.json</a>.</p>",
    ]
    for path, operations in document["paths"].items():
        parts += [_operation(method, path, found) for method, found in operations.items()]
    parts.append("<h2>Schemas</h2>")
    parts += [_schema(name, found) for name, found in document["components"]["schemas"].items()]
    return (
        "<!DOCTYPE html><html lang='en'><head><meta charset='utf-8'>"
        "<meta name='viewport' content='width=device-width'>"
        f"<title>{escape(info['title'])}</title><style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    parts = [
        f"<h2><code>{method.upper()} {escape(path)}</code></h2>",
        f"<p>{escape(operation.get('description', operation.get('summary', '')))}</p>",
    ]
    parameters = [
        (item["name"], _type(item["schema"]), item.get("description", ""))
        for item in operation.get("parameters", [])
    ]
    parts.append(_table("Headers", parameters))
    body = operation.get("requestBody", {}).get("content", {})
    parts.append(_table("Body", [(kind, _type(found["schema"]), "") for kind, found in body.items()]))
    for kind, found in body.items():
        if "properties" in found["schema"]:
            parts.append(_table(kind, _fields(found["schema"])))
    answers = [
        (status, _answer_types(found), found.get("description", ""))
        for status, found in operation["responses"].items()
    ]
    parts.append(_table("Answers", answers))
    return "".join(parts)


def _schema(name: str, schema: dict[str, Any]) -> str:
    heading = f"<h3 id='{escape(name)}'><code>{escape(name)}</code></h3>"
    return f"{heading}<p>{escape(schema.get('description', ''))}</p>{_table('', _fields(schema))}"


def _fields(schema: dict[str, Any]) -> list[tuple[str, str, str]]:
    required = schema.get("required", [])
    return [
        (name + ("" if name in required else " (optional)"), _type(found), found.get("description", ""))
        for name, found in schema.get("properties", {}).items()
    ]


def _answer_types(answer: dict[str, Any]) -> str:
    return ", ".join(
        f"{escape(kind)}: {_type(found.get('schema', {}))}"
        for kind, found in answer.get("content", {}).items()
    )


def _type(schema: dict[str, Any]) -> str:
    """Describe a type, as HTML."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f"<a href='#{name}'>{name}</a>"
    if "anyOf" in schema:
        return " or ".join(_type(choice) for choice in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(escape(repr(value)) for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(str(schema.get("const", schema.get("format", schema.get("type", "any")))))


def _table(title: str, rows: list[tuple[str, str, str]]) -> str:
    """Write rows of name, type (HTML already) and description; nothing for none."""
    if not rows:
        return ""
    lines = [
        f"<tr><td>{escape(name)}</td><td>{kind}</td><td>{escape(text)}</td></tr>" for name, kind, text in rows
    ]
    heading = f"<h3>{escape(title)}</h3>" if title else ""
    return f"{heading}<table>{''.join(lines)}</table>"
