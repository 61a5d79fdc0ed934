"""The door: who asks, whether they may, and how much. Passed before a request's body is read.

Open to everybody where no key, no limit and no protection is set; then it costs a request nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from app.errors import AuthenticationError, BusyError
from app.metrics import Metrics
from app.protocols.auth import Keys, bearer, read_keys, same
from app.protocols.rate_limit import RateLimit, bucket_of
from app.settings import Settings

OPERATOR = "operator"
"""The name under which the admin token asks; never in need of an API key."""

HEALTH_PATHS = frozenset({"/health", "/health/live", "/health/ready", "/v2/health/live", "/v2/health/ready"})
METRICS_PATH = "/metrics"
DOCUMENTATION_PATHS = frozenset({"/docs", "/openapi.json"})
# its routes check the admin token themselves, and say more precisely what is wrong
ADMIN_PREFIX = "/admin/"


class Gate:
    """Who may pass, by the settings. Lives on the event loop."""

    def __init__(
        self, settings: Settings, metrics: Metrics, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Read the keys.

        Raises:
            SettingsError: they cannot be read.
        """
        names = read_keys(settings)
        self._keys, self._metrics, self._clock = Keys(names), metrics, clock
        self._key_names = frozenset(names)
        token = settings.admin_token.get_secret_value() if settings.admin_token is not None else ""
        self._admin_token = token.encode()
        self._protected = {METRICS_PATH} if settings.protect_metrics else set()
        if settings.protect_health:
            self._protected |= HEALTH_PATHS
        self._free = ({METRICS_PATH} | HEALTH_PATHS | DOCUMENTATION_PATHS) - self._protected
        self._requests = _limit(settings.rate_limit_requests, settings, least_burst=1)
        self._texts = _limit(settings.rate_limit_texts, settings, least_burst=settings.max_texts)

    @property
    def is_open(self) -> bool:
        """True where everybody may ask as much as there is room for."""
        limited = self._requests is not None or self._texts is not None
        return not (self._key_names or self._protected or limited)

    def needs_key(self, path: str) -> bool:
        """Whether nobody passes without credentials; the operator's routes ask for their own."""
        if path in self._free or path.startswith(ADMIN_PREFIX):
            return False
        return bool(self._key_names) or path in self._protected

    def admit(self, path: str, headers: Mapping[bytes, bytes], peer: str) -> str:
        """The client's name: its key's, else its address. `headers` need hold no more than the credentials.

        Raises:
            AuthenticationError: the path needs credentials, and they are missing or wrong.
            BusyError: the client has used up its rate; carries when it may come back.
        """
        if path in self._free or path.startswith(ADMIN_PREFIX):
            return peer
        client = peer
        if self._key_names or path in self._protected:
            client = self._authenticate(headers)
        if self._requests is not None and path not in self._protected:
            self._take(self._requests, client, 1, "requests", "BERTPRESS_RATE_LIMIT_REQUESTS")
        return client

    def charge(self, client: str, texts: int) -> None:
        """Count the texts of a request against its client's rate.

        Raises:
            BusyError: the client has used up its rate; carries when it may come back.
        """
        if self._texts is not None:
            self._take(self._texts, client, texts, "texts", "BERTPRESS_RATE_LIMIT_TEXTS")
        if client in self._key_names:
            self._metrics.count_key_texts(client, texts)

    def _authenticate(self, headers: Mapping[bytes, bytes]) -> str:
        given = headers.get(b"x-api-key") or bearer(headers.get(b"authorization", b""))
        if given:
            if (name := self._keys.name_of(given)) is not None:
                return name
            if self._admin_token and same(given, self._admin_token):
                return OPERATOR
        self._metrics.count_refusal("authentication")
        raise AuthenticationError(
            "the API key is missing or wrong; send Authorization: Bearer <key> or X-API-Key: <key>"
        )

    def _take(self, limit: RateLimit, client: str, amount: int, unit: str, setting: str) -> None:
        wait_seconds = limit.take(bucket_of(client), amount, self._clock())
        if wait_seconds:
            self._metrics.count_refusal(f"rate_limit_{unit}")
            raise BusyError(
                f"more {unit} a second than one client may send ({setting}); come back after Retry-After",
                retry_after_seconds=wait_seconds,
            )


def _limit(per_second: float | None, settings: Settings, least_burst: float) -> RateLimit | None:
    if per_second is None:
        return None
    # a whole request must fit, or it could never pass
    return RateLimit(per_second, max(least_burst, per_second * settings.rate_limit_burst_seconds))
