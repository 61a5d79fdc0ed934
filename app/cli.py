"""`bertpress-serve`: every setting is a flag, every flag is a BERTPRESS_* variable, and the flag wins."""

from __future__ import annotations

import argparse
import contextlib
import gc
import logging
import os
import resource
import socket
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from app import logs
from app.errors import BertpressError, SettingsError
from app.hardware import use_one_heap
from app.head_start import HeadStart
from app.settings import PREFIX, Settings, read_settings

if TYPE_CHECKING:
    import uvicorn

log = logging.getLogger("bertpress")

# On a command line secrets would be there for every user of the machine to read.
_NOT_FLAGS = frozenset({"admin_token", "api_keys"})
# uvicorn's ticks are a tenth of a second
_TICKS_BETWEEN_LOOKS = 10
# files beside the connections: models, libraries, the log
_OTHER_FILES = 256


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
        if field.annotation in (bool, bool | None):
            options["action"] = argparse.BooleanOptionalAction
        result.add_argument(f"--{name.replace('_', '-')}", **options)
    return result


def serve(settings: Settings) -> int:
    """Listen, load, answer, and leave within the grace period after SIGTERM or SIGINT.

    Raises:
        BertpressError: it could not start.
    """
    logs.configure(settings.log_level, settings.log_format, sys.stderr, log_texts=settings.log_texts)
    _allow_files(settings.max_connections + _OTHER_FILES)
    listener = listen(settings.host, settings.port)
    host, port = listener.getsockname()[:2]
    log.info("listening on %s:%d", f"[{host}]" if ":" in host else host, port)
    # Idle threads of a BLAS nobody calls cost memory; the heavy imports come after this.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Importing makes no garbage worth looking for, and looking takes a fifth of the start.
    gc.disable()
    use_one_heap()
    head_start = HeadStart(settings)
    import uvicorn

    from app.main import create_app
    from app.protocols.connection import ConnectionLimits, connection_class, is_worth_logging

    logging.getLogger("uvicorn.error").addFilter(is_worth_logging)
    failures: list[Exception] = []

    def leave(error: Exception) -> None:
        failures.append(error)
        server.should_exit = True

    app = create_app(settings, on_failed_start=leave, head_start=head_start, on_started=_collect_from_now_on)
    parts = app.state.parts
    config = uvicorn.Config(
        app,
        http=connection_class(ConnectionLimits.from_settings(settings), parts.metrics),
        ws="none",
        log_config=None,
        access_log=False,  # the edge writes its own
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
        timeout_keep_alive=settings.keep_alive_seconds,
        timeout_graceful_shutdown=settings.grace_seconds,
    )
    server = _server(config, parts.admission.close)
    parts.metrics.open_connections = server.server_state.connections
    server.run(sockets=[listener])
    if failures:
        raise failures[0]
    return 0


def _collect_from_now_on() -> None:
    """What the start made is there for good: the collector, which would stand still over it, passes it by."""
    gc.freeze()
    gc.enable()


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


def _allow_files(count: int) -> None:
    """Let the process have that many open files, as far as the system allows: often no more than 1024 are."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count if hard == resource.RLIM_INFINITY else min(count, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _server(config: uvicorn.Config, stop_admitting: Any) -> uvicorn.Server:
    import uvicorn

    from app.protocols.connection import cut_slow

    class Server(uvicorn.Server):
        """Uvicorn's, except that it ends slow connections, and that being told to stop is not an error."""

        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            with super().capture_signals():
                yield
                # what is left here is raised again after the shutdown, and would end the process
                self._captured_signals.clear()

        def handle_exit(self, sig: int, frame: Any) -> None:
            stop_admitting()
            super().handle_exit(sig, frame)

        async def on_tick(self, counter: int) -> bool:
            if counter % _TICKS_BETWEEN_LOOKS == 0:
                cut_slow(self.server_state.connections)
            return await super().on_tick(counter)

    return Server(config)


if __name__ == "__main__":
    sys.exit(main())
