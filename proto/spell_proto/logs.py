"""structlog set-up: one JSON line per event on stderr; names that smell of secrets are never printed."""

import contextlib
import logging
import os
import sys
from typing import Any

import orjson
import structlog
from structlog.typing import EventDict

from spell_proto.errors import SettingsError, shown

_SECRET = ("password", "secret", "token", "authorization", "env", "url")


def _redact(_logger: Any, _method: str, event: EventDict) -> EventDict:
    for name in event:
        if any(part in name.lower() for part in _SECRET):
            event[name] = "[redacted]"
    return event


class _Stderr:
    """Where lines go. One for which a full disk has no room is lost: that must not end what it tells of."""

    def write(self, line: bytes) -> None:
        with contextlib.suppress(OSError):
            os.write(sys.stderr.fileno(), line)

    def flush(self) -> None:
        pass


LEVELS = ("debug", "info", "warning", "error", "critical")


def checked_level(level: str) -> str:
    """A level as it is set: any letter case."""
    if level.lower() not in LEVELS:
        raise SettingsError(
            f"the setting SPELL_LOG_LEVEL must be one of {', '.join(LEVELS)}, not {shown(level, 20)}"
        )
    return level.lower()


def configure(service: str, level: str = "info") -> None:
    """Set structlog up for a service. Call once, in `__main__`."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _redact,
            structlog.processors.JSONRenderer(serializer=orjson.dumps),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.BytesLoggerFactory(_Stderr()),  # type: ignore[arg-type]  # all it uses
        cache_logger_on_first_use=True,
    )
    structlog.contextvars.bind_contextvars(service=service)
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr, format="%(levelname)s %(name)s %(message)s")


def get() -> Any:
    """The logger. Bind `run_id` and `cause` once per handler, then `log.info("run moved", before=…)`."""
    return structlog.get_logger()
