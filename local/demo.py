"""`python -m local demo`: rank the example pictures through REST, on a stack of its own."""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from local.errors import LocalError
from local.http_call import http_call
from local.ports import free_ports
from local.stack import Stack
from local.tritonserver import Ports

if TYPE_CHECKING:
    from pathlib import Path

    from local.stack import StackSettings


async def demo(settings: StackSettings, examples: Path) -> None:
    """Start Triton and the frontend on free ports, rank every example and end both.

    Raises:
        LocalError: nothing is published, or one of them does not start, or does not answer.
    """
    port, *ports = free_ports(4)
    log = settings.directory / "frontend.log"
    stack = Stack(replace(settings, port=port, triton=Ports(*ports), frontend_log=log))
    async with stack.running():
        for example in json.loads((examples / "examples.json").read_text()):
            table = await asyncio.to_thread(_rank, stack.url, example, examples)
            print(table, flush=True)  # noqa: T201 - this is what the demo is for


def _rank(url: str, example: dict[str, Any], examples: Path) -> str:
    departures = {candidate["file"]: candidate["departs"] for candidate in example["candidates"]}
    candidates = [
        {"id": file, "image_base64": base64.b64encode((examples / file).read_bytes()).decode()}
        for file in departures
    ]
    body = json.dumps({"prompt": example["prompt"], "candidates": candidates})
    status, text = http_call(f"{url}/score-batch", body, timeout_s=120)
    if status != 200:
        raise LocalError(f"the frontend does not rank the examples (status {status}): {text.decode()}")
    answer = json.loads(text)
    lines = [
        f"\n{example['prompt']}   [{answer['model']['name']}]",
        "rank  raw_score  normalized  picture    what is wrong with it",
    ]
    lines += [
        f"{result['rank']:>4}  {result['raw_score']:>9.3f}  {result['normalized_score']:>10.3f}"
        f"  {result['id']:<9}  {departures[result['id']] or 'nothing: it fits'}"
        for result in answer["results"]
    ]
    return "\n".join(lines)
