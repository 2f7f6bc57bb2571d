"""Evidence bundles: the events of one release, or of one ticket, in one file that anyone can check with the notary's public key.

A bundle is a zip of two stored members, `evidence.json` (canonical JSON) and `summary.md`, whose bytes follow from what they say;
`docs/audit-format.md` describes it. `gather` makes one from the database and the anchors, `workers.audit.checking` checks one.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from uuid import UUID

import rfc8785
from sqlalchemy import String, cast, func, or_, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from schemas.audit import AuditEvent
from schemas.audit_tables import Event, TreeHead
from schemas.tables import RequestFace
from workers.audit.canonical import fields_of, is_canonical, parse
from workers.audit.errors import EvidenceUnreadable, NotAnchoredYet, NotInTrail
from workers.audit.heads import Anchors, HeadVerifier, SignedHead
from workers.audit.merkle import consistency_proof, inclusion_proof
from workers.audit.signed import signer_of
from workers.audit.store import StoredNodes
from workers.audit.summary import summarise
from workers.strangers import read_json

VERSION = 1
WHAT = "refacex evidence"
EVIDENCE = "evidence.json"
SUMMARY = "summary.md"
_FIELDS = {"about", "consistency", "events", "heads", "notary", "summary", "v", "what"}
_PEOPLE = (AuditEvent.PERSON_ADDED, AuditEvent.PERSON_REMOVED)
# Written by those who know the request or the recovery alone, and not the release.
_BY_REQUEST = (
    AuditEvent.REQUEST_EXPIRED,
    AuditEvent.TICKET_REFUSED,
    AuditEvent.RECOVERY_EXPIRED,
    AuditEvent.RECOVERY_FAILED,
    AuditEvent.RECOVERY_REFUSED,
)


class About(StrEnum):
    """What a bundle is about."""

    RELEASE = "release"
    TICKET = "ticket"


@dataclass(frozen=True)
class ProvenEvent:
    """An event's bytes and its audit path to the bundle's newest head, lowest hash first."""

    canonical: bytes
    path: tuple[bytes, ...]

    def body(self) -> dict[str, Any]:
        """The JSON object that was hashed. Raises ValueError where it is no event."""
        value = parse(self.canonical)
        if not isinstance(value, dict) or not is_canonical(value, self.canonical):
            raise ValueError("not a canonical object")
        fields = value.get("fields")
        texts = [value.get(name) for name in ("at", "role", "event")]
        plain = isinstance(fields, dict) and isinstance(fields.get("detail", {}), dict)
        if (
            not plain
            or type(value.get("seq")) is not int
            or value.get("v") != 1
            or not all(isinstance(each, str) for each in texts)
        ):
            raise ValueError("not in the form of an event")
        return value


@dataclass(frozen=True)
class Signed:
    """A head as it was signed."""

    body: bytes
    signature: bytes


@dataclass(frozen=True)
class Evidence:
    """What `evidence.json` holds. `heads`: one, or the earliest and the newest with the proof that one extends the other.

    `left_out` counts events that are younger than the newest head, `unreadable` those that are in no event's form; they are known while
    gathering and not part of the bundle.
    """

    about: About
    id: str
    events: tuple[ProvenEvent, ...]
    heads: tuple[Signed, ...]
    consistency: tuple[bytes, ...]
    notary_key: str
    notary_public: bytes
    summary_sha256: str = ""
    left_out: int = field(default=0, compare=False)
    unreadable: int = field(default=0, compare=False)

    def canonical(self, summary: str) -> bytes:
        """The bytes of `evidence.json` beside this summary."""
        return rfc8785.dumps(
            {
                "v": VERSION,
                "what": WHAT,
                "about": {self.about.value: self.id},
                "events": [
                    {"canonical": each.canonical.decode(), "path": [step.hex() for step in each.path]}
                    for each in self.events
                ],
                "heads": [{"body": head.body.decode(), "signature": head.signature.hex()} for head in self.heads],
                "consistency": [step.hex() for step in self.consistency],
                "notary": {"key": self.notary_key, "public": self.notary_public.hex()},
                "summary": hashlib.sha256(summary.encode()).hexdigest(),
            }
        )

    def summary(self) -> str:
        """`summary.md`. Raises ValueError where an event or a head is no JSON object."""
        bodies = [each.body() for each in self.events]
        return summarise(self.about.value, self.id, bodies, [read_json(head.body) for head in self.heads])


def pack(evidence: Evidence) -> bytes:
    """The bundle's bytes; the same evidence gives the same bytes."""
    summary = evidence.summary()
    return pack_members(evidence.canonical(summary), summary.encode())


def pack_members(evidence: bytes, summary: bytes) -> bytes:
    """The archive of these two members."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as archive:
        for name, content in ((EVIDENCE, evidence), (SUMMARY, summary)):
            entry = zipfile.ZipInfo(name)  # of 1980-01-01 00:00
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, content)
    return made.getvalue()


def unpack(data: bytes) -> tuple[Evidence, str]:
    """The evidence in a bundle, and its summary. Raises EvidenceUnreadable for any byte that is not as `pack` writes it.

    This checks form alone; what the evidence proves is for `workers.audit.checking`.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            stored = all(entry.compress_type == zipfile.ZIP_STORED for entry in archive.infolist())
            if archive.namelist() != [EVIDENCE, SUMMARY] or not stored:
                raise EvidenceUnreadable("the archive does not hold just evidence.json and summary.md")
            members = [archive.read(name) for name in (EVIDENCE, SUMMARY)]
        if pack_members(*members) != data:
            raise EvidenceUnreadable("the archive holds bytes besides its two members")
        return _parse(members[0]), members[1].decode()
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, RuntimeError) as error:
        raise EvidenceUnreadable("it is no archive of ours") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise EvidenceUnreadable("evidence.json is not of the form of docs/audit-format.md") from error


def _parse(data: bytes) -> Evidence:
    fields = parse(data)
    if not is_canonical(fields, data):
        raise EvidenceUnreadable("evidence.json is not canonical JSON")
    if fields.keys() != _FIELDS or (fields["v"], fields["what"]) != (VERSION, WHAT):
        raise EvidenceUnreadable("it is not of version 1")
    ((kind, about),) = fields["about"].items()
    if str(UUID(about)) != about:
        raise EvidenceUnreadable("an id is written otherwise than the trail writes it")
    notary = _exactly(fields["notary"], "key", "public")
    return Evidence(
        about=About(kind),
        id=about,
        events=tuple(_parse_event(each) for each in fields["events"]),
        heads=tuple(_parse_head(each) for each in fields["heads"]),
        consistency=_hashes(fields["consistency"]),
        notary_key=notary[0],
        notary_public=_hex(notary[1]),
        summary_sha256=_hex(fields["summary"]).hex(),
    )


def _parse_event(fields: dict[str, Any]) -> ProvenEvent:
    canonical, path = _exactly(fields, "canonical", "path")
    return ProvenEvent(canonical.encode(), _hashes(path))


def _parse_head(fields: dict[str, Any]) -> Signed:
    body, signature = _exactly(fields, "body", "signature")
    return Signed(body.encode(), _hex(signature))


def _exactly(fields: dict[str, Any], *names: str) -> list[Any]:
    if fields.keys() != set(names):
        raise EvidenceUnreadable(f"fields other than {', '.join(names)}")
    return [fields[name] for name in names]


def _hashes(values: Iterable[str]) -> tuple[bytes, ...]:
    return tuple(_hex(value) for value in values)


def _hex(value: str) -> bytes:
    raw = bytes.fromhex(value)
    if raw.hex() != value:
        raise EvidenceUnreadable("hex digits are small letters without spaces")
    return raw


# --- gathering


def gather(session: Session, anchors: Anchors, verifier: HeadVerifier, about: About, wanted: UUID) -> Evidence:
    """The evidence about one release or one ticket, as far as the newest anchored head; reads their events and a few hashes.

    A ticket's are its request's, and what became of the faces' items. Raises NotInTrail, NotAnchoredYet, HeadInvalid; storage errors
    pass through.
    """
    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
    found = _of_release(session, wanted) if about is About.RELEASE else _of_ticket(session, wanted)
    if not found:
        raise NotInTrail
    newest = _head(session, anchors, verifier, TreeHead.size >= 0)
    size = newest.size if newest is not None else 0
    known = {seq: canonical for seq, canonical in found.items() if seq < size}
    matter = {seq: canonical for seq, canonical in known.items() if _is_event(canonical)}
    if newest is None or not matter:
        raise NotAnchoredYet
    signers = {seq: canonical for seq, canonical in _signers(session, matter).items() if seq < size}
    covered = dict(sorted((matter | signers).items()))
    first = _head(session, anchors, verifier, TreeHead.size > min(covered), newest=False)
    assert first is not None  # the newest one covers it
    nodes = StoredNodes(session).prefetch([*covered, first.size - 1], first.size, newest.size)
    return Evidence(
        about=about,
        id=str(wanted),
        events=tuple(
            ProvenEvent(canonical, tuple(inclusion_proof(seq, newest.size, nodes)))
            for seq, canonical in covered.items()
        ),
        heads=tuple(
            Signed(head.body, head.signature) for head in ([first] if first.size == newest.size else [first, newest])
        ),
        consistency=tuple(consistency_proof(first.size, newest.size, nodes)),
        notary_key=verifier.key_id,
        notary_public=verifier.public,
        left_out=len(found) - len(known),
        unreadable=len(known) - len(matter),
    )


def _head(
    session: Session, anchors: Anchors, verifier: HeadVerifier, where: Any, *, newest: bool = True
) -> SignedHead | None:
    """The newest (or the earliest) such head, read from where it is anchored."""
    order = TreeHead.size.desc() if newest else TreeHead.size
    name = session.execute(select(TreeHead.anchor_object).where(where).order_by(order).limit(1)).scalar_one_or_none()
    return anchors.read(anchors.find(name), verifier) if name is not None else None


def _of_release(session: Session, release: UUID) -> dict[int, bytes]:
    found = _read(session, func.audit.release_of(Event.canonical) == str(release))
    return found | _linked(session, found)


def _of_ticket(session: Session, ticket: UUID) -> dict[int, bytes]:
    issued = _read(session, (Event.event == AuditEvent.TICKET_ISSUED.value) & (_said("ticket") == str(ticket)))
    if not issued:
        return {}
    found = dict(issued)
    for release, request in {ticket_of(fields_of(canonical)) for canonical in issued.values()}:
        query = select(cast(RequestFace.item_id, String)).where(cast(RequestFace.request_id, String) == request)
        items = set(session.execute(query).scalars())
        for number, each in _read(session, func.audit.release_of(Event.canonical) == release).items():
            said = fields_of(each)
            of_items = "request" not in said and ("item" not in said or str(said["item"]) in items)
            if said.get("request") == request or of_items:
                found[number] = each
    return found | _linked(session, found)


def ticket_of(fields: Mapping[str, Any]) -> tuple[str, str]:
    """The release and the request of a ticket's event; what is no id there is none."""
    return named(fields, "release") or "", named(fields, "request") or ""


def named(fields: Mapping[str, Any], name: str) -> str | None:
    """The id under this name; None where none is there: a stolen role writes what it likes."""
    value = fields.get(name)
    return value if isinstance(value, str) else None


def _linked(session: Session, found: dict[int, bytes]) -> dict[int, bytes]:
    """The events of the same requests and recoveries that do not name the release."""
    said = [fields_of(canonical) for canonical in found.values()]
    requests, recoveries = ({named(each, name) for each in said} - {None} for name in ("request", "recovery"))
    linked = or_(_said("request").in_(requests), _said("recovery").in_(recoveries))
    return _read(session, Event.event.in_([event.value for event in _BY_REQUEST]) & linked)


def _signers(session: Session, found: dict[int, bytes]) -> dict[int, bytes]:
    """The events that say who the signers are: their keys, and that they left; and the same of the administrators who signed those."""
    kinds = [event.value for event in _PEOPLE]
    told: dict[int, bytes] = {}
    known: set[str] = set()
    wanted = _signed_by(found)
    while wanted:
        read = _read(session, Event.event.in_(kinds) & _said("subject").in_(sorted(wanted)))
        more = {seq: canonical for seq, canonical in read.items() if _is_event(canonical)}
        told |= more
        known |= wanted
        wanted = _signed_by(more) - known
    return told


def _signed_by(found: dict[int, bytes]) -> set[str]:
    return {who for canonical in found.values() if (who := signer_of(read_json(canonical))) is not None}


def _read(session: Session, where: Any) -> dict[int, bytes]:
    query = select(Event.seq, Event.canonical).where(where).order_by(Event.seq)
    return {seq: bytes(canonical) for seq, canonical in session.execute(query)}


def _said(name: str) -> Any:
    return cast(func.convert_from(Event.canonical, "UTF8"), JSONB)["fields"][name].as_string()


def _is_event(canonical: bytes) -> bool:
    try:
        ProvenEvent(canonical, ()).body()
    except ValueError:
        return False
    return True
