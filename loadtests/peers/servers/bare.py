"""The bare classifier of an order: texts as JSON on standard input, labels and scores on standard output."""

from __future__ import annotations

import json
import sys

from loadtests.peers.servers.classifier import Order


def main() -> None:
    """`{"short": [text, ...], ...}` to `{"short": [[label, score], ...], ...}`, one text at a time."""
    classifier = Order.read().classifier()
    asked: dict[str, list[str]] = json.load(sys.stdin)
    answers = {name: [classifier([text])[0] for text in texts] for name, texts in asked.items()}
    print(json.dumps(answers))


if __name__ == "__main__":
    main()
