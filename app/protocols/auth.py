"""Bearer tokens, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac

from pydantic import SecretStr
from starlette.requests import Request

from app.errors import AdminDisabledError, AuthenticationError


def check_admin(request: Request, token: SecretStr | None) -> None:
    """Let the operator in.

    Raises:
        AdminDisabledError: no token is set, so nobody is the operator.
        AuthenticationError: the Authorization header is missing or wrong.
    """
    expected = token.get_secret_value() if token is not None else ""
    if not expected:
        raise AdminDisabledError("the admin interface is closed; set BERTPRESS_ADMIN_TOKEN to open it")
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not _same(given.strip(), expected):
        raise AuthenticationError("the admin token is missing or wrong; send Authorization: Bearer <token>")


def _same(given: str, expected: str) -> bool:
    """Digests have one length, so that the time tells nothing about the token's."""
    return hmac.compare_digest(_digest(given), _digest(expected))


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
