"""What the tests of governance share: a release with sealed keys, people with keys, a custodian, and their decisions."""

from __future__ import annotations

import hashlib
import json
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from sqlalchemy import NullPool, create_engine, func, insert, select, update
from sqlalchemy.orm import Session, sessionmaker

from gateway import provision
from schemas.audit import AuditEvent
from schemas.audit_tables import Event
from schemas.contexts import LAYOUT_FACE, KeyContext
from schemas.policies import Policy
from schemas.requests import (
    FaceRef,
    RequestTerms,
    decision_message,
    fetch_message,
    request_message,
    withdraw_message,
)
from schemas.states import AttemptState, Decision, ItemState, RequestState, Urgency
from schemas.submissions import VOUCHES, SubmissionTerms, pseudonym_of, subjects_sha256
from schemas.tables import Attempt, Item, Release, SealedKey, Subject
from tests.conftest import Database
from workers.audit import append
from workers.audit.attested import MARK, AttestedHistory
from workers.custody import keys
from workers.custody.judge import Signed
from workers.custody.ledger import Ledger
from workers.custody.policies import write_policies
from workers.custody.providers.unwrappers import KeyRing
from workers.custody.roster import RosterPerson, write_roster
from workers.custody.sealing import DEFAULT_SUITE, seal_key
from workers.custody.service import Custodian
from workers.custody.tickets import TicketSigner
from workers.recoveries import decisions, service
from workers.recoveries import people as people_of
from workers.recoveries.policies import set_policy
from workers.strangers import column_json

Sessions = sessionmaker[Session]
GROUNDS = service.Grounds("a court asked for it", "GDPR Art. 6(1)(c)", "CASE-17", "identification of a witness")
MODEL = "test-model-1"
POLICY = "strict"
REFERENCE, SUBJECT_SALT = "patient 17", b"salt of whom the first item shows"[:32]


def sessions(url: str) -> Sessions:
    """Sessions whose connections end with them, so that a test leaves none behind; they read JSON as `workers.db` does."""
    return sessionmaker(create_engine(url, poolclass=NullPool, json_deserializer=column_json), expire_on_commit=False)


@contextmanager
def copied(database: Database) -> Iterator[Database]:
    """A copy of a module's database for one test alone: some tests leave theirs broken."""
    name = f"{database.name}_{uuid4().hex[:6]}"
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}" TEMPLATE "{database.name}" OWNER {provision.OWNER}')
        provision.restrict_database(connection, name)
    yield Database(name, database.admin_url, database.passwords)
    with psycopg.connect(database.admin_url, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')


@dataclass
class Member:
    """A person of a test, with their secret keys."""

    id: str
    roles: tuple[str, ...]
    signing: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)
    receiving: X25519PrivateKey = field(default_factory=X25519PrivateKey.generate)

    def on_roster(self, tenant: str = "acme") -> RosterPerson:
        ed25519, x25519 = self.signing.public_key(), self.receiving.public_key()
        return RosterPerson(self.id, tenant, self.roles, ed25519.public_bytes_raw(), x25519.public_bytes_raw())

    def sign(self, terms: RequestTerms, decision: Decision = Decision.APPROVE) -> bytes:
        return self.signing.sign(decision_message(decision, terms.sha256()))


@dataclass
class World:
    """One database, one custodian, five people, and a release of two images with two faces each."""

    database: Database
    folder: Path
    people: dict[str, Member] = field(default_factory=dict)
    release: UUID = field(default_factory=uuid4)
    tenant: str = "acme"
    items: list[UUID] = field(default_factory=list)
    attempts: dict[UUID, UUID] = field(default_factory=dict)
    secrets: dict[tuple[UUID, int], bytes] = field(default_factory=dict)
    files: dict[str, bytes] = field(default_factory=dict)
    names: list[str] = field(default_factory=lambda: ["0.png", "1.png"])  # of the items
    salt: bytes | None = b"salt of the world's release....."  # None: of before the trail knew of names
    subject: UUID | None = None  # whom the first item shows
    seeded: int = 0  # events of the making: `events` gives those after them

    def moved(self, database: Database, folder: Path) -> World:
        """The same world on a copy of its database and its files."""
        shutil.copytree(self.folder, folder)
        return replace(self, database=database, folder=folder)

    def as_(self, role: str) -> Sessions:
        return sessions(self.database.url_for(role))

    def context(self, item: UUID, face: int) -> KeyContext:
        """What a key of the item is bound to."""
        return KeyContext.of(
            tenant=self.tenant,
            release=self.release,
            item=item,
            attempt=self.attempts[item],
            model_version=MODEL,
            policy=POLICY,
            face=None if face == LAYOUT_FACE else face,
            subject=self.one(select(Item.subject_id).where(Item.id == item)),
        )

    def owner(self, *statements: str) -> None:
        """What the database owner can do: anything, the guards switched off."""
        with psycopg.connect(self.database.owner_url.replace("+psycopg", ""), autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement)

    @property
    def roster(self) -> Path:
        return self.folder / "roster.json"

    @property
    def policies(self) -> Path:
        return self.folder / "policies.json"

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.folder / "tombstones.json")

    def custodian(self) -> Custodian:
        public = keys.load(self.folder / "recovery.json", keys.FileKind.KEYPAIR).of(keys.KeyType.X25519)
        return Custodian(
            sessions=self.as_("custodian"),
            unwrapper=KeyRing(self.folder / "custody.json"),
            roster=self.roster,
            policies=self.policies,
            ledger=self.ledger,
            recovery_public=keys.PublicKey(public.id, public.public),
            tickets=TicketSigner.load(self.folder / "ticket.json"),
        )

    def ticket_key(self) -> keys.Key:
        return keys.load(self.folder / "ticket.json", keys.FileKind.SIGNING).of(keys.KeyType.ED25519)

    def custodian_keys(self) -> dict[str, bytes]:
        """What its signatures are checked with."""
        return keys.load_verifiers(self.folder / "keys" / "ticket.public.json")

    def recovery_key(self) -> keys.Key:
        return keys.load(self.folder / "recovery.json", keys.FileKind.KEYPAIR).of(keys.KeyType.X25519)

    def draft(self, *faces: tuple[int, int], **options: Any) -> RequestTerms:
        """A request by alice for these (item number, face) pairs; the first item's face 0 where none is given."""
        wanted = [FaceRef(self.items[item], face) for item, face in faces or [(0, 0)]]
        given = {"requester": "alice", "grounds": GROUNDS, "faces": wanted} | options
        with self.as_("gateway").begin() as session:
            return service.draft_request(session, release_id=self.release, **given)

    def request(self, *faces: tuple[int, int], **options: Any) -> RequestTerms:
        """Opens such a request, signed by who asks."""
        terms = self.draft(*faces, **options)
        signature = self.people[terms.requester].signing.sign(request_message(terms.sha256()))
        with self.as_("gateway").begin() as session:
            service.open_request(session, terms, signature)
        return terms

    def smuggled(self, *faces: FaceRef, life: timedelta = timedelta(days=1)) -> RequestTerms:
        """A request that a stolen gateway writes without asking, with signatures that are all in order."""
        now = self.one(select(func.now())).astimezone(UTC)
        terms = RequestTerms(
            id=uuid4(),
            tenant="acme",
            release=self.release,
            requester="alice",
            **vars(GROUNDS),
            recipient_public=self.people["alice"].on_roster().x25519_public,
            policy=POLICY,
            urgency=Urgency.NORMAL,
            quorum=2,
            faces=faces,
            created_at=now,
            expires_at=now + life,
            names={
                each.item: self.names[self.items.index(each.item)] if each.item in self.items else "" for each in faces
            },
        )
        with self.as_("gateway").begin() as session:
            service._insert_request(session, terms, self.people["alice"].signing.sign(request_message(terms.sha256())))
        assert self.approve(terms, "bob", "carol") is RequestState.APPROVED
        return terms

    def another_release(self, tenant: str = "acme") -> World:
        """One more release beside this world's, with images and keys of its own."""
        other = replace(self, tenant=tenant, release=uuid4(), items=[], attempts={}, secrets={}, files={}, subject=None)
        submit(other)
        return other

    def withdraw(self, terms: RequestTerms, who: str = "alice") -> RequestState:
        signature = self.people[who].signing.sign(withdraw_message(terms.sha256()))
        with self.as_("gateway").begin() as session:
            return service.withdraw(session, terms.id, who, signature)

    def fetch(self, terms: RequestTerms, recovery: UUID, who: str = "alice") -> list[service.SealedFace]:
        signature = self.people[who].signing.sign(fetch_message(terms.sha256(), recovery))
        with self.as_("gateway").begin() as session:
            return service.fetch(session, recovery, who, signature)

    def approve(self, terms: RequestTerms, *approvers: str) -> RequestState:
        state = RequestState.OPEN
        for approver in approvers:
            signature = self.people[approver].sign(terms)
            with self.as_("gateway").begin() as session:
                state = decisions.approve(session, terms.id, approver, Signed(signature))
        return state

    def approved(self, *faces: tuple[int, int], **options: Any) -> RequestTerms:
        terms = self.request(*faces, **options)
        assert self.approve(terms, "bob", "carol") is RequestState.APPROVED
        return terms

    def events(self, *, marks: bool = False) -> list[dict[str, Any]]:
        """The events since the making, with the custodian's signatures or, as most tests want them, without."""
        query = select(Event.canonical).where(Event.seq >= self.seeded).order_by(Event.seq)
        with self.as_("gateway")() as session:
            found = [json.loads(row) for row in session.execute(query).scalars()]
        for event in found if not marks else ():
            detail = event["fields"].get("detail", {})
            if detail.pop(MARK, None) is not None and not detail:
                del event["fields"]["detail"]
        return found

    def unsigned(self) -> list[str]:
        """What is wrong with the custodian's signatures on its events; nothing, and none is missing."""
        history = AttestedHistory(self.custodian_keys())
        faults = [words for event in self.events(marks=True) for words in history.see(event)]
        return faults + ["unsigned"] * history.unsigned

    def one(self, query: Any, role: str = "gateway") -> Any:
        with self.as_(role)() as session:
            return session.execute(query).scalar_one()


def build(database: Database, folder: Path, *, people: bool = True) -> World:
    """A world whose rows were written with the roles that write them in life; its custodian has told what is pinned."""
    world = World(database, folder, subject=pseudonym_of("acme", REFERENCE, SUBJECT_SALT))
    keys.create_custody_keyring(folder / "custody.json")
    keys.create_keypair(folder / "recovery.json")
    keys.write_public(folder / "keys" / "ticket.public.json", keys.create_signing_key(folder / "ticket.json"))
    roles = {"alice": ("requester", "approver"), "bob": ("approver",), "carol": ("approver",), "dave": ("approver",)}
    others = {"eve": ("requester",), "olga": ("auditor",), "kim": ("key-officer",)}
    if people:
        world.people = {name: Member(name, held) for name, held in (roles | others).items()}
    Ledger.begin(folder / "tombstones.json")
    write_roster(world.roster, [member.on_roster() for member in world.people.values()])
    policy = Policy("acme", POLICY)
    write_policies(world.policies, [policy])
    with world.as_("gateway").begin() as session:
        set_policy(session, policy, "root")
    for member in world.people.values():
        with world.as_("gateway").begin() as session:
            people_of.add(session, member.on_roster(), "root")
    submit(world)
    world.custodian().load_roster()
    world.custodian().load_policies()
    world.seeded = len(world.events())
    return world


def seal_as_before(world: World) -> None:
    """The keys as a release worker of before revision 0009 would have sealed them: bound to no subject."""
    public = keys.load(world.folder / "custody.json", keys.FileKind.CUSTODY).of(keys.KeyType.X25519)
    to = keys.PublicKey(public.id, public.public)
    for (item, face), key in world.secrets.items():
        again = seal_key(to, key, replace(world.context(item, face), v=1)).hex()
        change = (
            f"UPDATE sealed_keys SET wrapped = '\\x{again}', context = 1 WHERE item_id = '{item}' AND face = {face}"  # noqa: S608  this file's own words
        )
        world.owner(
            "ALTER TABLE sealed_keys DISABLE TRIGGER USER", change, "ALTER TABLE sealed_keys ENABLE TRIGGER USER"
        )


def submit(world: World) -> None:
    """The release with its two images, released."""
    with world.as_("gateway").begin() as session:
        if world.subject is not None:
            made_from = {"tenant": world.tenant, "reference": REFERENCE, "salt": SUBJECT_SALT}
            session.execute(insert(Subject).values(id=world.subject, **made_from))
        session.add(
            Release(
                id=world.release,
                tenant=world.tenant,
                name="r",
                profile="robust",
                format="png",
                donor_policy="random",
                policy={"name": POLICY},
                submitted_by="sam",
                names_salt=world.salt,
            )
        )
        session.flush()
        for position, name in enumerate(world.names):
            world.items.append(uuid4())
            shown = {"subject_id": None if position else world.subject}
            session.add(
                Item(
                    id=world.items[-1],
                    release_id=world.release,
                    position=position,
                    source_uri=name,
                    relative_name=name,
                    **shown,
                )
            )
        session.flush()
        detail = {"tenant": world.tenant, "items": len(world.items), "profile": "robust", "format": "png"}
        terms = SubmissionTerms(world.release, world.tenant, POLICY, "sam", world.items, world.names, world.salt)
        detail |= {"donors": "random", "policy": POLICY, "names_sha256": terms.names_sha256()}
        detail["pseudonyms"] = VOUCHES
        detail["subjects_sha256"] = subjects_sha256(zip(world.items, [world.subject, None], strict=True))
        append(session, AuditEvent.RELEASE_SUBMITTED, actor="sam", release=world.release, detail=detail)
    for item in world.items:
        _release_item(world, item)


def _release_item(world: World, item: UUID) -> None:
    """What a release worker does at the end: the attempt with its sealed keys, then the item."""
    attempt, data, locator = uuid4(), b"released file of " + item.bytes, secrets.token_bytes(8)
    object_key = f"{item}/{attempt}.png"
    world.files[object_key] = data
    world.attempts[item] = attempt
    done = {"object_key": object_key, "sha256": hashlib.sha256(data).hexdigest(), "locator": locator}
    public = keys.load(world.folder / "custody.json", keys.FileKind.CUSTODY).of(keys.KeyType.X25519)
    with world.as_("release").begin() as session:
        session.execute(update(Item).where(Item.id == item).values(state=ItemState.COMMITTED, fence=1))
        session.execute(
            insert(Attempt).values(
                id=attempt, item_id=item, fence=1, size_bytes=len(data), model_version=MODEL, state="committed", **done
            )
        )
        for face in (LAYOUT_FACE, 0, 1):
            key = world.secrets[item, face] = secrets.token_bytes(32)
            context = world.context(item, face)
            session.execute(
                insert(SealedKey).values(
                    attempt_id=attempt,
                    item_id=item,
                    kind=context.kind,
                    face=face,
                    suite=DEFAULT_SUITE.value,
                    custody_key_id=public.id,
                    wrapped=seal_key(keys.PublicKey(public.id, public.public), key, context),
                )
            )
        session.get_one(Attempt, attempt).state = AttemptState.PUBLISHED
        row = session.get_one(Item, item)
        row.state, row.faces = ItemState.DONE, 2
        row.object_key, row.sha256, row.locator = object_key, done["sha256"], locator  # type: ignore[assignment]
        row.size_bytes = len(data)
        about: dict[str, Any] = {
            "actor": "release-worker",
            "release": world.release,
            "item": item,
            "model_version": MODEL,
        }
        made = {"attempt": str(attempt), "sha256": done["sha256"]}
        append(session, AuditEvent.ITEM_COMMITTED, **about, detail=made | {"keys": 3})
        append(session, AuditEvent.ITEM_RELEASED, **about, detail=made | {"bytes": len(data)})


SHORT = timedelta(milliseconds=150)
