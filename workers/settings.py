"""Settings: one class a process, read from REFACEX_* variables once at its start, and passed in from there on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from workers.errors import HomeMissing, SettingsInvalid

PREFIX = "REFACEX_"


class Settings(BaseSettings):
    """What every process has. Secrets are left out of `repr` and of validation errors."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, extra="ignore", frozen=True, hide_input_in_errors=True)

    log_format: Literal["json", "console"] = "json"
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    # Lets the fault tests kill a process at a named step and put a small core in the place of the real one.
    # Anything but a test leaves this off; `fault` and `core_factory` are refused without it.
    allow_faults: bool = False
    fault: str = ""

    @classmethod
    def load(cls, env_file: Path | None = None) -> Self:
        """Read the environment, then `env_file` for what the environment does not say.

        Raises SettingsInvalid with the names (never the values) of what is missing or wrong.
        """
        try:
            loaded = cls(_env_file=env_file)  # type: ignore[call-arg]  # pydantic-settings takes it at run time
        except ValidationError as error:
            names = sorted({PREFIX + str(part["loc"][0]).upper() if part["loc"] else "?" for part in error.errors()})
            raise SettingsInvalid(", ".join(names)) from None
        if not loaded.allow_faults and (loaded.fault or getattr(loaded, "core_factory", "")):
            raise SettingsInvalid("REFACEX_FAULT and REFACEX_CORE_FACTORY are for tests only")
        return loaded


class DatabaseSettings(Settings):
    """A process with a database role. `postgresql+psycopg://role:password@host:port/refacex`."""

    database_url: str = Field(repr=False)


class BrokerSettings(Settings):
    """A process that takes or gives messages on one broker: a Redis URL, with its ACL user and password."""

    broker_url: str = Field(repr=False)


class StorageSettings(Settings):
    """A process with an identity of its own at the S3 server."""

    s3_endpoint: str | None = None  # None: AWS itself
    s3_region: str = "us-east-1"
    s3_access_key: str = Field(repr=False)
    s3_secret_key: str = Field(repr=False)
    bucket_releases: str = "refacex-releases"
    bucket_input: str = "refacex-input"
    bucket_exports: str = "refacex-exports"
    bucket_anchors: str = "refacex-anchors"


KmsKey = Annotated[str, StringConstraints(pattern=r"^arn:aws[a-z-]*:kms:[a-z0-9-]+:[0-9]{12}:key/[A-Za-z0-9-]+$")]


class KmsSettings(Settings):
    """A process that may use AWS KMS. Without a key and secret of its own it finds its identity as boto3 does."""

    kms_endpoint: str | None = None  # None: AWS itself, in the region of the key's ARN
    kms_access_key: str | None = Field(default=None, repr=False)
    kms_secret_key: str | None = Field(default=None, repr=False)


class ReleaseSettings(DatabaseSettings, BrokerSettings, StorageSettings, KmsSettings):
    """The release worker: makes stego images, and can seal keys but not unwrap them."""

    custody_public_key: Path | None = None  # what keys are sealed to
    custody_kms_key: KmsKey | None = None  # in its place: a KMS key that may be encrypted with
    source_roots: list[Path] = []  # folders below which originals may be read where they are
    device: str = "auto"
    chunk: int = Field(default=8, ge=1, le=256)  # images that go through the networks together
    claim_seconds: float = Field(default=60.0, gt=0, le=43_200)  # a claim is renewed three times in this time
    patience_seconds: float = Field(default=120.0, ge=0)  # how long a step waits for an engine that is away
    max_source_bytes: int = Field(default=256 * 2**20, gt=0)
    core_factory: str = ""  # "module:function", tests only
    # Recognisers besides the gate's whose similarities go into the risk report; None: all that can be loaded here.
    judges: list[str] | None = None
    export_signing_key: Path | None = None
    shard_bytes: int = Field(default=512 * 2**20, gt=0)


class CustodianSettings(DatabaseSettings, BrokerSettings, KmsSettings):
    """The custodian, on the privileged broker: the only process that unwraps."""

    custody_keyring: Path | None = None
    custody_passphrase_file: Path | None = None  # the key ring's, where it has one
    custody_public_key: Path | None = None  # where a rotation writes the ring's public half, for release workers
    custody_kms_keys: list[KmsKey] = []  # whose keys are unwrapped; a rotation goes to the first
    ticket_signing_key: Path
    roster: Path
    policies: Path
    tombstones: Path
    recovery_public_key: Path


class RecoverySettings(DatabaseSettings, BrokerSettings, StorageSettings):
    """The recovery worker, on the privileged broker."""

    recovery_private_key: Path
    ticket_public_key: Path  # the custodian's: nothing is recovered without its signature
    device: str = "auto"
    core_factory: str = ""  # "module:function", tests only


class RelaySettings(DatabaseSettings, BrokerSettings, StorageSettings):
    """The relay and its reconciler: carries outbox rows to both brokers, and sweeps up after killed workers."""

    privileged_broker_url: str = Field(repr=False)
    relay_poll_seconds: float = Field(default=0.5, gt=0)
    reconcile_seconds: float = Field(default=10.0, gt=0)
    stalled_seconds: float = Field(default=60.0, gt=0)  # a waiting row is published again after this time
    sweep_seconds: float = Field(default=600.0, gt=0)  # between two full listings of the bucket
    orphan_seconds: float = Field(default=900.0, ge=0)  # an object without a row is deleted when older than this
    alert_webhook: str = Field(
        default="", repr=False, pattern=r"^(https?://\S+)?$"
    )  # where alerts are posted; or the log
    alert_secret: str = Field(default="", repr=False)  # what they are signed with (HMAC-SHA256)
    alert_timeout_seconds: float = Field(default=5.0, gt=0)


class NotarySettings(DatabaseSettings, StorageSettings):
    """The notary: signs tree heads and anchors them under Object Lock."""

    audit_signing_key: Path


class BeatSettings(DatabaseSettings, BrokerSettings):
    """Beat: looks once a minute which export windows have come up."""


class GatewaySettings(DatabaseSettings, StorageSettings):
    """The command line. `<home>/env/gateway.env` stands in for variables that are not set."""

    source_roots: list[Path] = []
    chunk: int = Field(default=8, ge=1, le=256)

    @classmethod
    def from_home(cls, home: Path | None = None) -> Self:
        """Read the environment, then `<home>/env/gateway.env`; home is $REFACEX_HOME, or `.refacex` in this folder."""
        folder = home or Path(os.environ.get(PREFIX + "HOME", ".refacex"))
        path = folder / "env" / "gateway.env"
        if path.is_file():
            return cls.load(path)
        try:
            return cls.load(None)
        except SettingsInvalid as error:
            if PREFIX + "DATABASE_URL" not in error.detail:  # somebody set things by hand, and one of them is wrong
                raise
            raise HomeMissing(f"{folder.absolute()}; without one, set {error.detail}") from None
