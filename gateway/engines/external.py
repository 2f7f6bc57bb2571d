"""Servers of your own instead of embedded engines, named by URL in the environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

from gateway.engines.errors import EngineUrlInvalid
from gateway.engines.seaweed import S3Identity

VARIABLES = {
    "release_broker": "REFACEX_EXTERNAL_RELEASE_BROKER_URL",
    "privileged_broker": "REFACEX_EXTERNAL_PRIVILEGED_BROKER_URL",
    "postgres": "REFACEX_EXTERNAL_POSTGRES_URL",
    "s3": "REFACEX_EXTERNAL_S3_URL",
}
_SCHEMES = {
    "release_broker": ("redis", "rediss"),
    "privileged_broker": ("redis", "rediss"),
    "postgres": ("postgresql", "postgres"),
    "s3": ("http", "https"),
}


@dataclass(frozen=True)
class External:
    """The engines that are somebody else's. `urls` by engine name; `s3` without its credentials."""

    urls: Mapping[str, str] = field(default_factory=dict, repr=False)
    s3_identity: S3Identity | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> External:
        """Read `REFACEX_EXTERNAL_*_URL`. Raises EngineUrlInvalid, without repeating the URL: it may hold a password."""
        urls: dict[str, str] = {}
        identity: S3Identity | None = None
        for engine, variable in VARIABLES.items():
            value = environment.get(variable, "").strip()
            if not value:
                continue
            parts = urlsplit(value)
            if parts.scheme not in _SCHEMES[engine] or not parts.hostname:
                raise EngineUrlInvalid(f"{variable}: expected {_SCHEMES[engine][0]}://...")
            if engine == "s3":
                if not parts.username or not parts.password:
                    raise EngineUrlInvalid(f"{variable}: expected {parts.scheme}://ACCESS:SECRET@host:port")
                identity = S3Identity(unquote(parts.username), unquote(parts.password))
                host = f"{parts.hostname}:{parts.port}" if parts.port else parts.hostname
                value = f"{parts.scheme}://{host}"
            urls[engine] = value
        return cls(urls, identity)
