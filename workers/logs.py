"""Logs: one JSON object a line on standard error, with the job, item and tenant bound, and no person in it.

A log line never holds a face, a key, or a file name of somebody. Two habits make that so, and this module enforces
both: values of fields whose names say that they could hold one are dropped, and an exception is logged as its type,
its code and the lines of *our* source that it went through; its message is dropped unless it is one of our own typed
errors, which carry none.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import MutableMapping
from pathlib import Path
from typing import Any

import structlog

# fmt: off
FORBIDDEN = frozenset([
    "path", "file", "filename", "name", "relative_name", "source", "source_uri", "key", "keys", "secret", "password",
    "token", "data", "crop", "image", "face", "embedding", "broker_url", "database_url", "args", "kwargs", "argsrepr",
    "kwargsrepr",
])
# fmt: on
OWN_MODULES = ("workers.", "refacex_core.", "schemas.", "gateway.")
# Third-party loggers whose debug or info lines carry arguments, URLs or request headers.
QUIET = (
    "boto3",
    "botocore",
    "s3transfer",
    "urllib3",
    "PIL",
    "sqlalchemy",
    "kombu",
    "amqp",
    "asyncio",
    "celery.utils.functional",
)


def describe_error(error: BaseException) -> dict[str, Any]:
    """Type, code and source lines of an exception; the message only of our own errors."""
    kind = type(error)
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    described: dict[str, Any] = {
        "type": f"{kind.__module__}.{kind.__qualname__}",
        "at": [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames],
    }
    code = getattr(error, "code", None)
    if isinstance(code, str):
        described["code"] = code
    if kind.__module__.startswith(OWN_MODULES):
        described["message"] = str(error)
    return described


def _withhold(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    for field in list(event):
        if field in FORBIDDEN or isinstance(event[field], (bytes, bytearray, memoryview)):
            event[field] = "withheld"
    return event


def _errors(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    info = event.pop("exc_info", None)
    if info is True:
        info = sys.exc_info()
    error = info[1] if isinstance(info, tuple) else info
    if isinstance(error, BaseException):
        event["error"] = describe_error(error)
    return event


def _without_traceback(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    # Celery formats the exception, message included, into its own line: only the first line of ours may pass.
    record = event.get("_record")
    if record is not None and not record.name.startswith(OWN_MODULES) and record.exc_info:
        event["event"] = str(record.msg).split("\n", 1)[0].split("%", 1)[0].strip() or record.name
    return event


def configure_logs(process: str, log_format: str = "json", level: str = "INFO") -> None:
    """Send structlog and the standard library's logging through one formatter, to standard error."""

    def bind_process(_: Any, __: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        event.setdefault("process", process)  # in every thread, which context variables would not be
        return event

    shared: list[Any] = [
        bind_process,
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        _errors,
        _withhold,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Any = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[_without_traceback, *shared],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in QUIET:
        logging.getLogger(name).setLevel(logging.WARNING)


def silence_logs() -> None:
    """For a command that people run: what it has to say are its own lines, and errors."""
    configure_logs("cli", "console")
    logging.getLogger().setLevel(logging.CRITICAL + 1)


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of a module: `log = get_logger(__name__)`."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger
