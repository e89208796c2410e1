"""A page with the pictures of one command, ranked: one file that needs no other."""

from __future__ import annotations

import base64
import importlib.util
import io
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Final

from imajin_aesthetic_client.images import is_address

if TYPE_CHECKING:
    from imajin_aesthetic_client.command import Table
    from imajin_aesthetic_client.inputs import Input

_MAX_SIDE: Final = 640
_KINDS: Final = {
    b"\x89PNG": "image/png",
    b"\xff\xd8\xff": "image/jpeg",
    b"GIF8": "image/gif",
    b"RIFF": "image/webp",
}
_PAGE: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; img-src data: https: http:; style-src 'unsafe-inline'">
<meta name="referrer" content="no-referrer"><title>{prompt}</title><style>
:root {{ color-scheme: light dark; --edge: #8884; --good: #183; --dim: #616161; }}
@media (prefers-color-scheme: dark) {{ :root {{ --good: #5c8; --dim: #aaa; }} }}
body {{ font: 16px/1.45 system-ui, sans-serif; max-width: 78rem; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; margin: 0; }} header p {{ color: var(--dim); margin: .25rem 0 1.5rem; }}
ol {{ list-style: none; padding: 0; display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); }}
li {{ border: 1px solid var(--edge); border-radius: .6rem; overflow: hidden; }}
li.best {{ border-color: var(--good); box-shadow: 0 0 0 1px var(--good); }}
li.below img {{ opacity: .4; }}
img {{ width: 100%; height: 15rem; object-fit: contain; background: #8881; display: block; }}
div {{ padding: .6rem .8rem; }} b {{ font-size: 1.25rem; font-variant-numeric: tabular-nums; }}
small {{ color: var(--dim); display: block; overflow-wrap: anywhere; }}
meter {{ width: 100%; }}
</style></head><body><header><h1>{prompt}</h1><p>{model}</p></header>
<ol>
{pictures}
</ol>
{failures}</body></html>
"""


def write_report(path: Path, table: Table, min_score: float | None) -> None:
    """Write the page; pictures are made smaller if Pillow is there, else they stay as they are."""
    model = f"{table.model.name}, version {table.model.version}"
    if min_score is not None:
        model += f"; asked for {min_score:g} at least"
    failures = "".join(
        f"<li><div><b>no score</b><small>{escape(item.name)}: {escape(error.detail)}</small></div></li>\n"
        for item, error in table.failed
    )
    page = _PAGE.format(
        prompt=escape(table.prompt),
        model=escape(model),
        pictures="\n".join(
            _picture(item, result.rank, result.raw_score, result.normalized_score, min_score)
            for item, result in table.results
        ),
        failures=f"<h2>Without a score</h2><ol>{failures}</ol>" if failures else "",
    )
    path.write_text(page, encoding="utf-8")


def _picture(item: Input, rank: int, raw: float, normalized: float, min_score: float | None) -> str:
    is_below = min_score is not None and raw < min_score
    kind = "below" if is_below else "best" if rank == 1 else ""
    below = f"; below {min_score:g}" if is_below else ""
    return (
        f'<li class="{kind}"><img src="{escape(_source(item.image))}" alt="{escape(item.name)}" loading="lazy">'
        f"<div><b>{rank}. &nbsp; {raw:+.3f}</b>"
        f'<meter value="{normalized:.4f}" aria-label="normalized score">{normalized:.3f}</meter>'
        f"<small>{escape(item.name)}{below}</small></div></li>"
    )


def _source(image: str | bytes | Path) -> str:
    if is_address(image):
        return image
    data = image if isinstance(image, bytes) else Path(image).read_bytes()
    if importlib.util.find_spec("PIL") is not None:
        data = _smaller(data)
    kind = next((kind for start, kind in _KINDS.items() if data.startswith(start)), "image/avif")
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _smaller(data: bytes) -> bytes:
    from PIL import Image  # noqa: PLC0415 - an extra

    with Image.open(io.BytesIO(data)) as image:
        if max(image.size) <= _MAX_SIDE:
            return data
        image.thumbnail((_MAX_SIDE, _MAX_SIDE))
        file = io.BytesIO()
        image.convert("RGB").save(file, "JPEG", quality=85)
    return file.getvalue()
