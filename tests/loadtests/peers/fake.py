"""A peer for tests: a small server of the standard library that labels a text by its first word."""

from __future__ import annotations

import sys

from loadtests.peers.corpus import Corpus
from loadtests.peers.peer import Launch, Peer, Setting, Started
from loadtests.peers.run import Run
from loadtests.peers.search import Found
from loadtests.peers.visit import LengthFigures, Visit

SERVER = """
import asyncio, json, sys

async def answer(reader, writer):
    while line := await reader.readline():
        length = 0
        while line := (await reader.readline()).strip().lower():
            if line.startswith(b"content-length:"):
                length = int(line.split()[1])
        text = json.loads(await reader.readexactly(length))["text"]
        label = text.split()[0] if sys.argv[2] == "right" else "other"
        body = json.dumps({"label": label}).encode()
        writer.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (len(body), body))
        await asyncio.sleep(0.005)

async def main():
    server = await asyncio.start_server(answer, "127.0.0.1", int(sys.argv[1]), backlog=512)
    await server.serve_forever()

if sys.argv[2] == "broken":
    sys.exit("ValueError: no model")
asyncio.run(main())
"""
CORPUS = Corpus(["good one", "bad one", "good two", "bad two"], ["good", "bad", "good", "bad"], 0, 4.0)


def peer(name: str = "fake", *settings: Setting) -> Peer:
    """A peer whose `engine` says what it is: `right`, `wrong` or `broken`."""

    def start(launch: Launch) -> Started:
        command = [sys.executable, "-c", SERVER, str(launch.port), launch.setting.engine]
        return Started(command, launch.environment())

    return Peer(
        name=name,
        distribution=name,
        requirements=(),
        path="/",
        body=lambda text, _: {"text": text},
        label=lambda answer: str(answer["label"]),
        start=start,
        same_build=settings,
        documented=settings,
    )


def figures(rate: float, failures: dict[str, int] | None = None, p99_ms: float | None = 20.0) -> Run:
    """A run of 100 requests."""
    return Run(rate, rate, rate / 2, 10.0, p99_ms, failures or {}, 100, 0.02)


def visited(name: str, rate: float, p99_ms: float | None = 20.0) -> Visit:
    """A visit whose figures follow from a rate."""
    lengths = {
        length: LengthFigures(
            figures(rate), Found(rate, None, 5), figures(rate / 2, p99_ms=p99_ms), figures(2 * rate)
        )
        for length in ("short", "long")
    }
    return Visit(name, 1.5, 90_000_000, 100_000_000, lengths)
