"""Servers of your own instead of embedded engines, named by URL in the environment.

`REFACEX_EXTERNAL_{RELEASE_BROKER,PRIVILEGED_BROKER,POSTGRES,S3}_URL`. The storage's URL holds an administrator's access key and
secret. `REFACEX_EXTERNAL_S3_IDENTITIES` names a file with a key pair for each process (the form of SeaweedFS's `s3.json`);
without it every process uses the administrator's, which is less than the design asks for.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

import psycopg
import redis

from gateway.engines.errors import EngineFailed, EngineUrlInvalid
from gateway.engines.seaweed import ADMIN, RIGHTS, S3Identity, s3_client

VARIABLES = {
    "release_broker": "REFACEX_EXTERNAL_RELEASE_BROKER_URL",
    "privileged_broker": "REFACEX_EXTERNAL_PRIVILEGED_BROKER_URL",
    "postgres": "REFACEX_EXTERNAL_POSTGRES_URL",
    "s3": "REFACEX_EXTERNAL_S3_URL",
}
IDENTITIES = "REFACEX_EXTERNAL_S3_IDENTITIES"
_SCHEMES = {
    "release_broker": ("redis", "rediss"),
    "privileged_broker": ("redis", "rediss"),
    "postgres": ("postgresql", "postgres"),
    "s3": ("http", "https"),
}


@dataclass(frozen=True)
class External:
    """The engines that are somebody else's. `urls` by engine name, `s3` without its credentials."""

    urls: Mapping[str, str] = field(default_factory=dict, repr=False)
    s3_identities: Mapping[str, S3Identity] = field(default_factory=dict, repr=False)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> External:
        """Read `REFACEX_EXTERNAL_*`. Raises EngineUrlInvalid, without repeating the URL: it may hold a password."""
        urls: dict[str, str] = {}
        identities: dict[str, S3Identity] = {}
        for engine, variable in VARIABLES.items():
            value = environment.get(variable, "").strip()
            if not value:
                continue
            parts = urlsplit(value)
            if parts.scheme not in _SCHEMES[engine] or not parts.hostname:
                raise EngineUrlInvalid(f"{variable}: expected {_SCHEMES[engine][0]}://...")
            if engine == "s3":
                identities = _identities(parts, environment.get(IDENTITIES, "").strip())
                value = f"{parts.scheme}://{parts.hostname}" + (f":{parts.port}" if parts.port else "")
            urls[engine] = value
        return cls(urls, identities)

    def await_ready(self, names: tuple[str, ...], seconds: float = 60.0) -> None:
        """Wait until each of the named ones can be used. Raises EngineFailed with its name and what its client says."""
        checks: dict[str, Callable[[], object]] = {
            "release_broker": lambda: _ping(self.urls["release_broker"]),
            "privileged_broker": lambda: _ping(self.urls["privileged_broker"]),
            "postgres": lambda: psycopg.connect(self.urls["postgres"], connect_timeout=3).close(),
            "s3": lambda: s3_client(self.urls["s3"], self.s3_identities[ADMIN]).list_buckets(),
        }
        deadline = time.monotonic() + seconds
        for name in names:
            if name not in self.urls:
                continue
            while True:
                try:
                    checks[name]()
                    break
                except Exception as error:  # whatever a client raises while its server is away
                    if time.monotonic() > deadline:
                        raise EngineFailed(f"{VARIABLES[name]}: {type(error).__name__}") from None
                time.sleep(0.5)


def _identities(parts: SplitResult, file: str) -> dict[str, S3Identity]:
    """Every process's credentials: from the file, else the URL's for all."""
    found: dict[str, S3Identity] = {}
    if file:
        try:
            entries = json.loads(Path(file).read_text())["identities"]
            for entry in entries:
                keys = entry["credentials"][0]
                found[entry["name"]] = S3Identity(keys["accessKey"], keys["secretKey"])
        except (OSError, ValueError, KeyError, TypeError, IndexError):
            raise EngineUrlInvalid(f"{IDENTITIES} names no file of identities with their keys") from None
    if parts.username and parts.password:
        own = S3Identity(unquote(parts.username), unquote(parts.password))
        found = dict.fromkeys((ADMIN, *RIGHTS), own) | found
    if missing := {ADMIN, *RIGHTS} - set(found):
        hint = f"{parts.scheme}://ACCESS:SECRET@host:port"
        raise EngineUrlInvalid(f"{VARIABLES['s3']}: expected {hint}, or {IDENTITIES} with {', '.join(sorted(missing))}")
    return found


def _ping(url: str) -> None:
    with redis.Redis.from_url(url, socket_connect_timeout=3, socket_timeout=3) as client:
        client.ping()
