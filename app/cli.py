"""`bertpress-serve`: every setting is a flag, every flag is a BERTPRESS_* variable, and the flag wins."""

from __future__ import annotations

import argparse
import contextlib
import logging
import os
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from app import logs
from app.errors import BertpressError, SettingsError
from app.settings import PREFIX, Settings, read_settings

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger("bertpress")

# On a command line secrets would be there for every user of the machine to read.
_NOT_FLAGS = frozenset({"admin_token", "api_keys"})
# Longer than the idle time of the load balancers in front (AWS: 60 s), so that they close first.
_KEEP_ALIVE_SECONDS = 75


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the service until it is told to stop. Returns the exit code."""
    flags = vars(parser().parse_args(arguments))
    try:
        settings = read_settings({name: value for name, value in flags.items() if value is not None})
        return serve(settings)
    except BertpressError as error:
        sys.stderr.write(f"bertpress-serve: {error}\n")
        return 1


def parser() -> argparse.ArgumentParser:
    """A flag per setting."""
    result = argparse.ArgumentParser(
        prog="bertpress-serve", description="Serve the models of a repository over HTTP."
    )
    for name, field in Settings.model_fields.items():
        if name in _NOT_FLAGS:
            continue
        default = "" if field.default is None else f" [{field.default}]"
        options: dict[str, Any] = {
            "help": f"{field.description}{default}; {PREFIX}{name.upper()}",
            "default": None,
        }
        if field.annotation is bool:
            options["action"] = argparse.BooleanOptionalAction
        result.add_argument(f"--{name.replace('_', '-')}", **options)
    return result


def serve(settings: Settings) -> int:
    """Listen, load, answer, and leave within the grace period after SIGTERM or SIGINT.

    Raises:
        BertpressError: it could not start.
    """
    logs.configure(settings.log_level, settings.log_format, sys.stderr, log_texts=settings.log_texts)
    listener = listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    log.info("listening on %s:%d", f"[{host}]" if ":" in host else host, port)
    # Idle threads of a BLAS nobody calls cost memory; the heavy imports come after this.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import uvicorn

    from app.main import create_app

    failures: list[Exception] = []

    def leave(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(settings, on_failed_start=leave)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=settings.access_log,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=settings.grace_seconds,
    )
    server = _server(config, app.state.parts.admission.close)
    server.run(sockets=[listener])
    if failures:
        raise failures[0]
    return 0


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        SettingsError: the address cannot be had.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        return socket.create_server(address[:2], family=family, backlog=2048)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {host}:{port}: {error.strerror}; choose another --host or --port"
        ) from error


def _server(config: uvicorn.Config, stop_admitting: Any) -> uvicorn.Server:
    import uvicorn

    class Server(uvicorn.Server):
        """Uvicorn's, except that being told to stop is not an error: the exit code is 0."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            with super().capture_signals():
                yield
                # what is left here is raised again after the shutdown, and would end the process
                self._captured_signals.clear()

        def handle_exit(self, sig: int, frame: Any) -> None:
            stop_admitting()
            super().handle_exit(sig, frame)

    return Server(config)


if __name__ == "__main__":
    sys.exit(main())
