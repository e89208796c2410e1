"""Freeze how a version's scores are distributed now, as the reference of the alert ScoreDrift.

    python3 deploy/monitoring/reference.py http://127.0.0.1:9090 1 --over 7d \
        > deploy/monitoring/reference-1.yml

asks Prometheus and writes a file of rules, which prometheus.yml reads with the next reload. Only
Python's own library is needed.
"""

from __future__ import annotations

import argparse
import json
import sys
from urllib.error import URLError
from urllib.parse import urlencode
from urllib.request import urlopen

MIN_SCORES = 1000


def main() -> int:
    """Write the rules, or say in one line why not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("prometheus", help="its address: http://127.0.0.1:9090")
    parser.add_argument("version", help="of which version")
    parser.add_argument("--over", default="7d", help="how far back (default: %(default)s)")
    parser.add_argument("--min-scores", type=int, default=MIN_SCORES, help="(default: %(default)s)")
    arguments = parser.parse_args()
    scores = f'{{version="{arguments.version}"}}[{arguments.over}]'
    try:
        buckets = query(arguments.prometheus, f"sum by (le) (increase(aesthetic_raw_score_bucket{scores}))")
    except (URLError, ValueError) as error:
        print(f"error: {arguments.prometheus}: {error}", file=sys.stderr)
        return 1
    count = buckets.get("+Inf", 0.0)
    if count < arguments.min_scores:
        print(
            f"error: {count:.0f} scores of version {arguments.version} in {arguments.over}", file=sys.stderr
        )
        return 1
    print(f"# {count:.0f} scores of version {arguments.version} in {arguments.over}, by reference.py.")
    print(f'groups:\n  - name: "imajin-aesthetic-reference-{arguments.version}"\n    rules:')
    for limit, below in sorted(buckets.items(), key=lambda item: float(item[0])):
        print("      - record: aesthetic:raw_score:reference")
        print(f"        expr: vector({below / count:.6f})")
        print(f'        labels: {{version: "{arguments.version}", le: "{limit}"}}')
    return 0


def query(url: str, expression: str) -> dict[str, float]:
    """Ask Prometheus for one number for each `le`.

    Raises:
        ValueError: it gives another answer.
    """
    with urlopen(f"{url}/api/v1/query?{urlencode({'query': expression})}", timeout=30) as answer:  # noqa: S310
        found = json.load(answer)["data"]["result"]
    return {one["metric"]["le"]: float(one["value"][1]) for one in found}


if __name__ == "__main__":
    sys.exit(main())
