"""Who may come in: API keys and the operator's token, compared so that the time tells nothing about them."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path

from pydantic import SecretStr
from starlette.requests import Request

from app.errors import AdminDisabledError, AuthenticationError, SettingsError
from app.settings import Settings

# no dot and no colon: a key's name can never be taken for an address
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SHORTEST_KEY = 16


class Keys:
    """API keys with their names.

    They are found by a digest under a secret of this process. Which digest a guess has, nobody outside can
    know, so the time that finding takes tells nothing, and a thousand keys cost no more than one.
    """

    def __init__(self, keys_by_name: Mapping[str, str]) -> None:
        self._secret = secrets.token_bytes(32)
        self._names = {self._digest(key.encode()): name for name, key in keys_by_name.items()}

    def __len__(self) -> int:
        return len(self._names)

    def name_of(self, key: bytes) -> str | None:
        """The name of a key; None if there is no such key."""
        return self._names.get(self._digest(key))

    def _digest(self, key: bytes) -> bytes:
        return hashlib.blake2b(key, digest_size=32, key=self._secret).digest()


def read_keys(settings: Settings) -> dict[str, str]:
    """API keys by name, from the settings and from their file.

    Raises:
        SettingsError: the file cannot be read, or an entry is not name:key, too short, or there twice. The
            message never shows a key.
    """
    found: dict[str, str] = {}
    if settings.api_keys is not None:
        _add(found, settings.api_keys.get_secret_value().split(","), "BERTPRESS_API_KEYS")
    if settings.api_keys_file is not None:
        lines = _read(settings.api_keys_file).splitlines()
        _add(
            found, [line for line in lines if not line.lstrip().startswith("#")], str(settings.api_keys_file)
        )
    return found


def check_admin(request: Request, token: SecretStr | None) -> None:
    """Let the operator in.

    Raises:
        AdminDisabledError: no token is set, so nobody is the operator.
        AuthenticationError: the Authorization header is missing or wrong.
    """
    check_token(request.headers.get("authorization", "").encode("latin-1"), token)


def check_token(authorization: bytes, token: SecretStr | None) -> None:
    """Let the operator in by the value of an Authorization header.

    Raises:
        AdminDisabledError: no token is set, so nobody is the operator.
        AuthenticationError: the value is missing or wrong.
    """
    expected = token.get_secret_value() if token is not None else ""
    if not expected:
        raise AdminDisabledError("the admin interface is closed; set BERTPRESS_ADMIN_TOKEN to open it")
    if not same(bearer(authorization), expected.encode()):
        raise AuthenticationError("the admin token is missing or wrong; send Authorization: Bearer <token>")


def bearer(authorization: bytes) -> bytes:
    """The token of an Authorization header; empty if it has none."""
    scheme, _, given = authorization.partition(b" ")
    return given.strip() if scheme.lower() == b"bearer" else b""


def same(given: bytes, expected: bytes) -> bool:
    """Compare two secrets; their digests have one length, so that the time tells nothing about theirs."""
    return hmac.compare_digest(hashlib.sha256(given).digest(), hashlib.sha256(expected).digest())


def _add(found: dict[str, str], entries: Iterable[str], source: str) -> None:
    for number, entry in enumerate(entries, 1):
        if not entry.strip():
            continue
        name, separator, key = (part.strip() for part in entry.partition(":"))
        if not separator or not _NAME.fullmatch(name):
            raise SettingsError(
                f"entry {number} of {source} is not name:key with a name of letters, digits, - and _"
            )
        if len(key) < _SHORTEST_KEY:
            raise SettingsError(
                f"the key of {name} in {source} has {len(key)} characters and needs {_SHORTEST_KEY}; "
                "openssl rand -hex 16 makes a good one"
            )
        if name in found or key in found.values():
            raise SettingsError(f"the name or the key of entry {number} of {source} ({name}) is there twice")
        found[name] = key


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the API keys in {path}: {error}") from None
