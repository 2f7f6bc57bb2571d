"""The tables, as SQLAlchemy sees them.

What must never be broken (who may change what, which state follows which, who may approve) is held by the
database itself: see `migrations/sql/`. Columns that hold key material or recovered faces are deferred, because most
roles may not read them: ask for them with `undefer` where you may.
"""

from __future__ import annotations

import uuid
from datetime import datetime
from typing import Any

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Identity,
    Index,
    SmallInteger,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import Mapped, mapped_column

from schemas.base import Base, new_id, now
from schemas.states import (
    AttemptState,
    Decision,
    ExportState,
    ItemState,
    KeyKind,
    KeyState,
    OrderKind,
    OrderScope,
    OrderState,
    RecoveryState,
    ReleaseState,
    RequestState,
    Urgency,
)


class Release(Base):
    """A job: many items under one policy. `policy["name"]` is what the keys and payloads are bound to. `signature`: the
    submitter's own, where they signed the submission. `names_salt`: see `schemas.submissions`.
    """

    __tablename__ = "releases"
    __table_args__ = (Index("releases_unreported", "created_at", postgresql_where=text("report_sha256 IS NULL")),)

    id: Mapped[uuid.UUID] = new_id()
    tenant: Mapped[str]
    name: Mapped[str]
    profile: Mapped[str]
    format: Mapped[str]
    quality: Mapped[int | None]
    donor_policy: Mapped[str]
    policy: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    on_no_face: Mapped[str] = mapped_column(server_default=text("'hold'"))
    state: Mapped[ReleaseState] = mapped_column(server_default=text("'open'"))
    submitted_by: Mapped[str]
    created_at: Mapped[datetime] = now()
    finished_at: Mapped[datetime | None]
    report_sha256: Mapped[str | None]
    signature: Mapped[bytes | None]
    names_salt: Mapped[bytes | None]
    made_in: Mapped[int | None] = mapped_column(BigInteger)  # the transaction that inserted it, and its items

    @property
    def policy_name(self) -> str:
        """The policy's name as every seal of the release is bound to it; `default` where none was given."""
        return str((self.policy or {}).get("name", "default"))


class Item(Base):
    """One image of a release. Once `done`, its object, hash and locator never change (a trigger sees to it)."""

    __tablename__ = "items"
    __table_args__ = (
        UniqueConstraint("release_id", "position"),
        Index(
            "items_unfinished",
            "state",
            "claim_expires_at",
            postgresql_where=text("state IN ('pending', 'claimed', 'committed')"),
        ),
        Index("items_subject", "subject_id", postgresql_where=text("subject_id IS NOT NULL")),
    )

    id: Mapped[uuid.UUID] = new_id()
    release_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("releases.id"))
    position: Mapped[int]
    source_uri: Mapped[str]
    relative_name: Mapped[str]
    subject_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("subjects.id"))
    state: Mapped[ItemState] = mapped_column(server_default=text("'pending'"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    fence: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    claimed_at: Mapped[datetime | None]
    claim_expires_at: Mapped[datetime | None]
    locator: Mapped[bytes | None]
    object_key: Mapped[str | None]
    sha256: Mapped[str | None]
    size_bytes: Mapped[int | None] = mapped_column(BigInteger)
    width: Mapped[int | None]
    height: Mapped[int | None]
    faces: Mapped[int | None]
    stego_psnr: Mapped[float | None] = mapped_column(Float(53))
    report: Mapped[dict[str, Any] | None]
    reason: Mapped[str | None]
    error_code: Mapped[str | None]
    updated_at: Mapped[datetime] = now()


class Attempt(Base):
    """One try at an item, under one fencing token. The one whose object is the item's is `published`."""

    __tablename__ = "attempts"
    __table_args__ = (
        UniqueConstraint("item_id", "fence"),
        UniqueConstraint("id", "item_id"),
        Index("attempts_one_published", "item_id", unique=True, postgresql_where=text("state = 'published'")),
        Index("attempts_one_committed", "item_id", unique=True, postgresql_where=text("state = 'committed'")),
    )

    id: Mapped[uuid.UUID] = new_id()
    item_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("items.id"))
    fence: Mapped[int] = mapped_column(BigInteger)
    state: Mapped[AttemptState] = mapped_column(server_default=text("'committed'"))
    object_key: Mapped[str]
    sha256: Mapped[str]
    size_bytes: Mapped[int] = mapped_column(BigInteger)
    locator: Mapped[bytes]
    model_version: Mapped[str]
    created_at: Mapped[datetime] = now()
    made_in: Mapped[int | None] = mapped_column(BigInteger)  # the transaction that inserted it, and its keys


class SealedKey(Base):
    """A key of an attempt, sealed to the custody key. Release workers may insert; only the custodian reads `wrapped`.

    The custodian takes the keys of the item's *published* attempt, so a loser's keys need not be marked by the worker;
    the reconciler marks them `superseded`. `face` is -1 for the layout key. `context`: the version of what it is bound to
    (`schemas.contexts`).
    """

    __tablename__ = "sealed_keys"
    __table_args__ = (
        UniqueConstraint("attempt_id", "kind", "face"),
        ForeignKeyConstraint(["attempt_id", "item_id"], ["attempts.id", "attempts.item_id"]),
        Index("sealed_keys_item", "item_id"),
        Index("sealed_keys_custody_key", "custody_key_id", "id", postgresql_where=text("wrapped IS NOT NULL")),
    )

    id: Mapped[uuid.UUID] = new_id()
    attempt_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("attempts.id"))
    item_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("items.id"))
    kind: Mapped[KeyKind]
    face: Mapped[int]
    suite: Mapped[str]
    custody_key_id: Mapped[str]
    wrapped: Mapped[bytes | None] = mapped_column(deferred=True)
    context: Mapped[int] = mapped_column(SmallInteger, default=2)
    state: Mapped[KeyState] = mapped_column(server_default=text("'live'"))
    created_at: Mapped[datetime] = now()


class Outbox(Base):
    """A message that the relay is to publish. Row-level security: each role may only write to its own brokers."""

    __tablename__ = "outbox"
    __table_args__ = (Index("outbox_unpublished", "id", postgresql_where=text("published_at IS NULL")),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    broker: Mapped[str]
    queue: Mapped[str]
    task: Mapped[str]
    args: Mapped[list[Any]]
    created_at: Mapped[datetime] = now()
    published_at: Mapped[datetime | None]
    publish_count: Mapped[int] = mapped_column(server_default=text("0"))


class Policy(Base):
    """One version of a policy; the newest holds. For early checks: the custodian trusts its own copy alone."""

    __tablename__ = "policies"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    body: Mapped[dict[str, Any]]
    canonical: Mapped[bytes]
    canonical_sha256: Mapped[bytes]
    set_by: Mapped[str]
    created_at: Mapped[datetime] = now()


class Subject(Base):
    """Whom items show. The trail knows `id`, a pseudonym; `reference` is the submitter's own word for them, until erased. `salt`: what
    the pseudonym was made with from it (`workers.releases.subjects`); None in rows of before revision 0009.
    """

    __tablename__ = "subjects"
    __table_args__ = (UniqueConstraint("tenant", "reference"),)

    id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    reference: Mapped[str | None]
    salt: Mapped[bytes | None]
    created_at: Mapped[datetime] = now()
    erased_at: Mapped[datetime | None]


class Person(Base):
    """Somebody who may act. Only for showing and for early checks: the custodian trusts its own roster alone."""

    __tablename__ = "people"

    id: Mapped[str] = mapped_column(primary_key=True)
    tenant: Mapped[str]
    roles: Mapped[list[str]]
    ed25519_public: Mapped[bytes] = mapped_column(unique=True)
    x25519_public: Mapped[bytes] = mapped_column(unique=True)
    passkeys: Mapped[list[Any]] = mapped_column(server_default=text("'[]'::jsonb"))
    created_at: Mapped[datetime] = now()
    removed_at: Mapped[datetime | None]


class RecoveryRequest(Base):
    """Who wants which faces back, why, and sealed to which key. The requester and the approvers sign the hash of
    `canonical`. Only `state` changes.
    """

    __tablename__ = "recovery_requests"
    __table_args__ = (
        UniqueConstraint("id", "requester"),
        CheckConstraint("quorum >= 1", name="recovery_requests_quorum_check"),
    )

    id: Mapped[uuid.UUID] = new_id()
    tenant: Mapped[str]
    release_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("releases.id"))
    requester: Mapped[str]
    reason: Mapped[str]
    legal_basis: Mapped[str]
    case_reference: Mapped[str]
    purpose: Mapped[str]
    recipient_public: Mapped[bytes]
    policy: Mapped[str]
    urgency: Mapped[Urgency]
    quorum: Mapped[int]
    signature: Mapped[bytes | None]
    state: Mapped[RequestState] = mapped_column(server_default=text("'open'"))
    canonical: Mapped[bytes]
    canonical_sha256: Mapped[bytes]
    signs_names: Mapped[bool]
    expires_at: Mapped[datetime]
    created_at: Mapped[datetime]


class RequestFace(Base):
    """One face of a request. Bystanders in the same image are not opened by it."""

    __tablename__ = "request_faces"
    __table_args__ = (Index("request_faces_item", "item_id"),)

    request_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("recovery_requests.id"), primary_key=True)
    item_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("items.id"), primary_key=True)
    face: Mapped[int] = mapped_column(primary_key=True)


class Approval(Base):
    """One approver's signed decision. `requester` is repeated so that a CHECK can forbid approving one's own
    request.
    """

    __tablename__ = "approvals"
    __table_args__ = (
        ForeignKeyConstraint(["request_id", "requester"], ["recovery_requests.id", "recovery_requests.requester"]),
        CheckConstraint("approver <> requester", name="approvals_not_by_requester_check"),
    )

    request_id: Mapped[uuid.UUID] = mapped_column(primary_key=True)
    approver: Mapped[str] = mapped_column(primary_key=True)
    requester: Mapped[str]
    decision: Mapped[Decision]
    signature: Mapped[bytes]
    method: Mapped[str] = mapped_column(server_default=text("'ed25519'"))
    assertion: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = now()


class Review(Base):
    """What became of a broken glass: open until somebody who had no part in it signs a conclusion."""

    __tablename__ = "reviews"

    request_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("recovery_requests.id"), primary_key=True)
    opened_at: Mapped[datetime] = now()
    closed_at: Mapped[datetime | None]
    closed_by: Mapped[str | None]
    conclusion: Mapped[str | None]
    signature: Mapped[bytes | None]


class Ticket(Base):
    """The custodian's leave for one recovery, signed by it. One a request, spent once; a trigger counts the approvals
    first.
    """

    __tablename__ = "tickets"

    id: Mapped[uuid.UUID] = new_id()
    request_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("recovery_requests.id"), unique=True)
    expires_at: Mapped[datetime]
    spent_at: Mapped[datetime | None]
    canonical: Mapped[bytes | None]
    signature: Mapped[bytes | None]
    created_at: Mapped[datetime] = now()


class Recovery(Base):
    """The one recovery of a ticket. `key_bundle` is sealed to the recovery worker's key, anew from time to time while it
    waits, and gone once it was used; `attempts` counts how often a worker began.
    """

    __tablename__ = "recoveries"

    id: Mapped[uuid.UUID] = new_id()
    ticket_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("tickets.id"), unique=True)
    state: Mapped[RecoveryState] = mapped_column(server_default=text("'bound'"))
    attempts: Mapped[int] = mapped_column(server_default=text("0"))
    key_bundle: Mapped[bytes | None] = mapped_column(deferred=True)
    sealed_at: Mapped[datetime] = now()
    expires_at: Mapped[datetime]
    error_code: Mapped[str | None]
    created_at: Mapped[datetime] = now()


class RecoveredFace(Base):
    """A recovered face, sealed to the requester's key; `sha256` of the sealed bytes stays after they are gone."""

    __tablename__ = "recovered_faces"

    recovery_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("recoveries.id"), primary_key=True)
    item_id: Mapped[uuid.UUID] = mapped_column(ForeignKey("items.id"), primary_key=True)
    face: Mapped[int] = mapped_column(primary_key=True)
    sealed: Mapped[bytes | None] = mapped_column(deferred=True)
    sha256: Mapped[str]
    fetched_at: Mapped[datetime | None]


class CustodyOrder(Base):
    """What a key officer ordered the custodian to do, signed. `target` is an item (with `face`, one face of it), a
    release or a subject; `outcome` is a number of keys, or why it was refused.
    """

    __tablename__ = "custody_orders"
    __table_args__ = (
        Index("custody_orders_target", "target"),
        Index("custody_orders_given", "created_at", postgresql_where=text("state = 'given'")),
    )

    id: Mapped[uuid.UUID] = new_id()
    tenant: Mapped[str]
    kind: Mapped[OrderKind]
    scope: Mapped[OrderScope]
    target: Mapped[uuid.UUID]
    face: Mapped[int | None]
    reason: Mapped[str]
    ordered_by: Mapped[str]
    canonical: Mapped[bytes]
    canonical_sha256: Mapped[bytes]
    signature: Mapped[bytes]
    state: Mapped[OrderState] = mapped_column(server_default=text("'given'"))
    outcome: Mapped[str | None]
    created_at: Mapped[datetime]


class Alert(Base):
    """What somebody must be told at once. The relay delivers it; `detail` holds ids and codes, as the trail does.

    `delivered_at`: when the webhook took it; just `at` where there was none, and it stands in the relay's log and here alone.
    """

    __tablename__ = "alerts"
    __table_args__ = (Index("alerts_undelivered", "id", postgresql_where=text("delivered_at IS NULL")),)

    id: Mapped[int] = mapped_column(BigInteger, Identity(always=True), primary_key=True)
    at: Mapped[datetime] = now()
    kind: Mapped[str]
    detail: Mapped[dict[str, Any]]
    delivered_at: Mapped[datetime | None]

    @property
    def here_only(self) -> bool:
        """Whether nobody was sent it, because there was no webhook."""
        return self.delivered_at == self.at


class ExportSchedule(Base):
    """When to export which releases: a cron expression in a time zone."""

    __tablename__ = "export_schedules"

    id: Mapped[uuid.UUID] = new_id()
    tenant: Mapped[str]
    name: Mapped[str] = mapped_column(unique=True)
    cron: Mapped[str]
    time_zone: Mapped[str]
    release_filter: Mapped[dict[str, Any]] = mapped_column(server_default=text("'{}'::jsonb"))
    enabled: Mapped[bool] = mapped_column(Boolean, server_default=text("true"))


class Export(Base):
    """One export: of a schedule's window, or of one release. The unique keys make a second beat harmless."""

    __tablename__ = "exports"
    __table_args__ = (
        UniqueConstraint("schedule_id", "window_start"),
        Index("exports_of_release", "release_id", unique=True, postgresql_where=text("schedule_id IS NULL")),
    )

    id: Mapped[uuid.UUID] = new_id()
    schedule_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("export_schedules.id"))
    release_id: Mapped[uuid.UUID | None] = mapped_column(ForeignKey("releases.id"))
    window_start: Mapped[datetime | None]
    state: Mapped[ExportState] = mapped_column(server_default=text("'pending'"))
    object_prefix: Mapped[str]
    manifest: Mapped[dict[str, Any] | None]
    created_at: Mapped[datetime] = now()
    finished_at: Mapped[datetime | None]


class CustodyKey(Base):
    """A custody key that there is or was, beside its events. `id`: of a ring key its id, of a KMS key its ARN.

    `rotating`: what other keys still hold is being wrapped again under this one; `rewrapped` of them so far. Nothing is
    sealed to a key that is `closed`; of one that is `retired` the private half is gone as well.
    """

    __tablename__ = "custody_keys"
    __table_args__ = (
        Index("custody_keys_one_rotation", "rotating", unique=True, postgresql_where=text("rotating")),
        CheckConstraint("rewrapped >= 0", name="custody_keys_rewrapped_check"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    suite: Mapped[str]
    created_at: Mapped[datetime]
    rotating: Mapped[bool] = mapped_column(server_default=text("false"))
    rewrapped: Mapped[int] = mapped_column(BigInteger, server_default=text("0"))
    closed_at: Mapped[datetime | None]
    retired_at: Mapped[datetime | None]
