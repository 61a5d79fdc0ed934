from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable

import pytest

from app.errors import InvalidRequestError, LimitExceededError
from app.protocols.decompression import decompress

BODY = b'{"inputs": "good"}' * 10
PACK: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.compress, "deflate": zlib.compress}


@pytest.mark.parametrize("encoding", PACK)
def test_it_comes_back(encoding: str) -> None:
    packed = PACK[encoding](BODY)
    for name in (encoding, encoding.upper(), f" {encoding} "):
        assert decompress(packed, name, 1000) == BODY
    assert decompress(packed, encoding, len(BODY)) == BODY


@pytest.mark.parametrize("encoding", [None, "", "identity"])
def test_plain_bodies_stay(encoding: str | None) -> None:
    assert decompress(BODY, encoding, 1) is BODY


@pytest.mark.parametrize("encoding", PACK)
def test_a_bomb_is_not_opened_further_than_the_limit(encoding: str) -> None:
    bomb = PACK[encoding](b"\0" * 50_000_000)
    assert len(bomb) < 100_000
    with pytest.raises(LimitExceededError, match="1000000 bytes once decompressed") as caught:
        decompress(bomb, encoding, 1_000_000)
    assert caught.value.limit == 1_000_000


@pytest.mark.parametrize("encoding", PACK)
def test_what_is_not_whole(encoding: str) -> None:
    packed = PACK[encoding](BODY)
    for broken in (packed[:-5], packed + b"more", b"", b"plain"):
        with pytest.raises(InvalidRequestError):
            decompress(broken, encoding, 1000)


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "deflate, gzip"])
def test_other_encodings(encoding: str) -> None:
    with pytest.raises(InvalidRequestError, match="gzip, deflate or identity"):
        decompress(BODY, encoding, 1000)
