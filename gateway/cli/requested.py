"""Recovery requests on the command line: found by what people type, shown as what they sign."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from uuid import UUID

from gateway.cli.service import Cell, by_beginning, name_shown

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from schemas.requests import FaceRef, RequestTerms


def find_request(session: Session, given: str) -> UUID:
    """The request of that id, or of what its id begins with. Raises RequestUnknown."""
    from schemas.tables import RecoveryRequest
    from workers.recoveries.errors import RequestUnknown

    found = by_beginning(session, RecoveryRequest.id, given)
    if found is None:
        raise RequestUnknown
    return found


def terms_rows(session: Session, terms: RequestTerms) -> list[list[Cell]]:
    """What is asked, as rows of a table: everything that a signature covers."""
    from workers.custody.keys import KeyType, key_id

    names = item_names(session, terms)
    faces = [f"{name_shown(names[each.item])} face {each.face} (item {each.item})" for each in terms.faces]
    return [
        ["requester", f"{terms.requester} of {terms.tenant}"],
        ["reason", terms.reason],
        ["legal basis", terms.legal_basis],
        ["case", terms.case_reference],
        ["purpose", terms.purpose],
        ["release", str(terms.release)],
        ["faces", tuple(faces)],
        ["sealed to", f"{terms.requester}'s key {key_id(KeyType.X25519, terms.recipient_public)}"],
        ["policy", terms.policy],
        ["approvals needed", f"{terms.quorum}{', AND THE GLASS IS BROKEN' if terms.urgency.value != 'normal' else ''}"],
        ["open until", f"{terms.expires_at:%Y-%m-%d %H:%M} UTC"],
        ["SHA-256", terms.sha256().hex()],
    ]


def find_faces(session: Session, release: UUID, given: str) -> list[FaceRef]:
    """The faces that `ITEM:FACE` or `ITEM` names. Raises FaceNotReleased."""
    from sqlalchemy import String, cast, or_, select

    from schemas.requests import FaceRef
    from schemas.tables import Item
    from workers.recoveries.errors import FaceNotReleased

    numbered = re.fullmatch(r"(.+):(\d{1,4})", given, re.DOTALL)
    name = numbered[1] if numbered else given
    begins = cast(Item.id, String).startswith(name.lower(), autoescape=True) if len(name) >= 4 else Item.id.is_(None)
    query = select(Item.id, Item.faces).where(Item.release_id == release, or_(Item.relative_name == name, begins))
    found = session.execute(query.limit(2)).all()
    if len(found) != 1:
        what = "more than one item is" if found else "no item is"
        raise FaceNotReleased(
            f"{what} called {name_shown(name)}: name it by its id, which tells it apart however it is called"
        )
    item, count = found[0].id, found[0].faces or 0
    return [FaceRef(item, int(numbered[2]))] if numbered else [FaceRef(item, number) for number in range(count)]


def item_names(session: Session, terms: RequestTerms) -> dict[UUID, str]:
    """The names of the items that a request is about."""
    from sqlalchemy import select

    from schemas.tables import Item

    wanted = {each.item for each in terms.faces}
    rows = session.execute(select(Item.id, Item.relative_name).where(Item.id.in_(wanted)))
    return {row.id: row.relative_name for row in rows}
