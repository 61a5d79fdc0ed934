"""Every setting of the service, every limit among them, read from BERTPRESS_* or given by the caller."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from app.errors import SettingsError

PREFIX = "BERTPRESS_"
# read by other parts of bertpress; known here so that they are not taken for a misspelling
_NAMES_OF_OTHERS = frozenset({"BERTPRESS_DATA"})


class Settings(BaseSettings):
    """What the operator may choose. Frozen: changing a setting means starting again."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, env_ignore_empty=True, frozen=True, extra="forbid")

    host: str = Field("127.0.0.1", description="address to listen on; 0.0.0.0 opens it to the network")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 takes a free one")
    grpc_port: int | None = Field(
        None,
        ge=0,
        le=65535,
        description="port of the Open Inference Protocol over gRPC; 0 takes a free one; unset: closed; "
        "needs the extra grpc",
    )
    models: Path = Field(Path("models"), description="the model repository: <name>/<version>/ folders")
    state: Path = Field(
        Path(".bertpress/promoted.json"), description="file that remembers what is promoted over a restart"
    )
    log_level: str = Field("info", pattern="^(debug|info|warning|error)$", description="least level logged")
    log_format: Literal["text", "json"] = Field("text", description="json: one object a line, for collectors")
    access_log: bool = Field(False, description="log a line per request; costs throughput")
    log_texts: bool = Field(False, description="log every text asked about; for finding faults alone")
    otlp_endpoint: str | None = Field(
        None,
        pattern="^https?://.+",
        description="send traces there by OTLP over HTTP, as http://collector:4318; needs the extra otel; "
        "OTEL_EXPORTER_OTLP_ENDPOINT does the same",
    )
    watts_per_idle_core: float = Field(
        0.74, ge=0, description="energy where no counter can be read: a core that waits; see app/energy.py"
    )
    watts_per_busy_core: float = Field(3.5, ge=0, description="the same: a core that works all the time")

    default_model: str | None = Field(
        None, description="model that answers when none is named, until another is promoted"
    )
    preload: str = Field("", description="comma list of name or name/version to load beside the default")
    build: str | None = Field(None, description="name of the build to run instead of the best one found")
    allow_torchscript: bool = Field(False, description="open TorchScript builds; the format can carry code")
    cpu_features: str | None = Field(None, description="comma list that replaces the CPU features found")

    admin_token: SecretStr | None = Field(None, description="bearer token of /admin; unset closes /admin")
    api_keys: SecretStr | None = Field(
        None, description="comma list of name:key; unset: everybody may ask; the admin token may, too"
    )
    api_keys_file: Path | None = Field(
        None, description="file of name:key lines, beside or instead of api_keys"
    )
    protect_health: bool = Field(False, description="health checks need the admin token or an API key")
    protect_metrics: bool = Field(False, description="/metrics needs the admin token or an API key")
    trusted_proxies: str = Field(
        "", description="comma list of addresses or networks whose X-Forwarded-For is believed; * for any"
    )
    cors_origins: str = Field("", description="comma list of web origins whose pages may ask; * for any")
    rate_limit_requests: float | None = Field(
        None,
        gt=0,
        description="requests a second of one API key, or else address; unset: as many as there is room",
    )
    rate_limit_texts: float | None = Field(None, gt=0, description="the same, in texts a second")
    rate_limit_burst_seconds: float = Field(
        10.0, gt=0, description="how many seconds' worth of its rate a client may ask for at once"
    )

    threads: int | None = Field(
        None,
        ge=1,
        le=256,
        description="threads inside one forward pass; unset: 1, until trials made when idle show better",
    )
    sessions: int | None = Field(
        None, ge=1, le=256, description="forward passes at once; unset: usable cores divided by threads"
    )
    lone_session: bool | None = Field(
        None,
        description="a second session, on all cores, for a request that is alone: quicker answers to long "
        "texts while there is little to do, for the memory of the build once more; unset: for builds of at "
        "most 32 MB, once threads are measured while idle",
    )
    tune: bool = Field(True, description="measure costs, threads and builds while nobody asks")
    tuning: Path | None = Field(
        None, description="file that keeps what was measured; unset: tuning.json beside the state file"
    )
    max_batch_rows: int = Field(32, ge=1, le=1024, description="most texts in one forward pass")
    max_batch_tokens: int = Field(8192, ge=1, description="most padded tokens in one forward pass")

    coalesce: bool = Field(True, description="run a text once when several requests hold it at the same time")
    cache_bytes: int = Field(
        0, ge=0, description="memory for answers given before, by text's digest; 0 keeps none"
    )

    max_texts: int = Field(128, ge=1, description="most texts in a request")
    max_text_chars: int = Field(100_000, ge=1, description="most characters in a text")
    max_body_bytes: int = Field(1_000_000, ge=1, description="most bytes in a request body")
    max_requests: int = Field(1024, ge=1, description="most requests being answered at once")
    max_queue_texts: int = Field(4096, ge=1, description="most texts waiting for a forward pass")
    default_timeout_ms: int = Field(10_000, ge=1, description="time a request has when it names none")
    max_timeout_ms: int = Field(60_000, ge=1, description="most time a request may ask for")
    grace_seconds: int = Field(30, ge=0, description="time to finish admitted requests after SIGTERM")
    max_connections: int = Field(2048, ge=1, description="most connections open at once")
    max_header_bytes: int = Field(32_768, ge=1024, description="most bytes in a request's line and headers")
    max_headers: int = Field(100, ge=1, description="most headers in a request")
    header_timeout_seconds: float = Field(
        10.0, gt=0, description="time from a connection, or a request's first byte, to the end of its headers"
    )
    body_timeout_seconds: float = Field(
        30.0, gt=0, description="time from a request's headers to its body's end"
    )
    write_timeout_seconds: float = Field(30.0, gt=0, description="time a client has to take an answer")
    keep_alive_seconds: int = Field(
        75, ge=1, description="time an idle connection stays open; more than the load balancer's (AWS: 60)"
    )

    @model_validator(mode="after")
    def _limits_agree(self) -> Self:
        if self.default_timeout_ms > self.max_timeout_ms:
            raise ValueError(f"default_timeout_ms must not exceed max_timeout_ms ({self.max_timeout_ms})")
        if self.max_queue_texts < self.max_texts:
            raise ValueError(f"max_queue_texts must hold one request of max_texts ({self.max_texts})")
        if self.watts_per_busy_core < self.watts_per_idle_core:
            raise ValueError("watts_per_busy_core must not be less than watts_per_idle_core")
        for origin in self.allowed_origins:
            if not re.fullmatch(r"\*|https?://[^/\s]+", origin):
                raise ValueError("cors_origins holds what is no origin; write https://example.org, no path")
        if (self.protect_health or self.protect_metrics) and not self._has_credentials:
            raise ValueError("protect_health and protect_metrics need admin_token, api_keys or api_keys_file")
        return self

    @property
    def _has_credentials(self) -> bool:
        secrets = (self.admin_token, self.api_keys)
        return self.api_keys_file is not None or any(s and s.get_secret_value() for s in secrets)

    @property
    def tuning_file(self) -> Path:
        """Where measurements are kept."""
        return self.tuning or self.state.with_name("tuning.json")

    @property
    def preloaded(self) -> tuple[str, ...]:
        """The entries of `preload`."""
        return _entries(self.preload)

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The entries of `cors_origins`."""
        return _entries(self.cors_origins)


def read_settings(overrides: Mapping[str, Any], environment: Mapping[str, str] | None = None) -> Settings:
    """Settings from the environment, overruled by `overrides`.

    Raises:
        SettingsError: a BERTPRESS_* variable that does not exist, or a value out of range.
    """
    refuse_unknown_names(os.environ if environment is None else environment)
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_input=False, include_context=False)[0]
        field = str(first["loc"][0]) if first["loc"] else ""
        name = f"{PREFIX}{field.upper()}: " if field else ""
        raise SettingsError(f"{name}{first['msg']}") from None


def refuse_unknown_names(environment: Mapping[str, str]) -> None:
    """Find a misspelt BERTPRESS_* variable.

    Raises:
        SettingsError: names the variable and the nearest right one.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields} | _NAMES_OF_OTHERS
    for name in sorted(environment):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            nearest = difflib.get_close_matches(name.upper(), known, n=1, cutoff=0)[0]
            raise SettingsError(f"{name[:100]} is not a setting of bertpress; did you mean {nearest}?")


def _entries(comma_list: str) -> tuple[str, ...]:
    return tuple(entry.strip() for entry in comma_list.split(",") if entry.strip())
