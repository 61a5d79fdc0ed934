"""How much one client may ask: a token bucket each, in bounded memory."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from functools import lru_cache

# An entry is about 200 bytes. Who comes from more addresses than this gets a fresh bucket each time.
_MOST_CLIENTS = 10_000
_IPV6_SITE_BITS = 64


class RateLimit:
    """So many units a second, and `burst` of them at once, for every client on its own.

    A bucket is kept as one number: the moment at which it will be full again (the generic cell rate
    algorithm). A full bucket is the same as none, so the ones longest unused are forgotten first.
    """

    def __init__(self, per_second: float, burst: float, most_clients: int = _MOST_CLIENTS) -> None:
        self._per_second, self._most_clients = per_second, most_clients
        self._burst_seconds = burst / per_second
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._full_at)

    def take(self, client: str, amount: float, now: float) -> float:
        """0 if the client may have `amount` units; else the seconds until it may, and nothing is taken."""
        full_at = max(self._full_at.get(client, now), now) + amount / self._per_second
        wait_seconds = full_at - now - self._burst_seconds
        if wait_seconds > 1e-9:
            return wait_seconds
        self._full_at[client] = full_at
        self._full_at.move_to_end(client)
        if len(self._full_at) > self._most_clients:
            self._full_at.popitem(last=False)
        return 0.0


@lru_cache(maxsize=1024)
def bucket_of(client: str) -> str:
    """Whose bucket a client uses: an IPv6 host has a whole /64 to choose its address from."""
    if ":" not in client:
        return client
    try:
        address = ipaddress.IPv6Address(client.partition("%")[0])
    except ValueError:
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address), _IPV6_SITE_BITS), strict=False))
