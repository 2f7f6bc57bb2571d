"""`summary.md` of an evidence bundle: who did what when, in plain words. It says nothing that the events do not say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.audit import AuditEvent
from workers.words import number_of

Body = Mapping[str, Any]

WORDS: dict[AuditEvent, str] = {
    AuditEvent.RELEASE_SUBMITTED: "submitted the release of {items:image}",
    AuditEvent.RELEASE_FINISHED: "finished the release",
    AuditEvent.RELEASE_CANCELLED: "cancelled the release",
    AuditEvent.RELEASE_REPORTED: "wrote the risk report",
    AuditEvent.ITEM_CLAIMED: "began with image {item}",
    AuditEvent.ITEM_COMMITTED: "sealed the keys of image {item}",
    AuditEvent.ITEM_RELEASED: "released image {item}",
    AuditEvent.ITEM_HELD: "held image {item} back",
    AuditEvent.ITEM_FAILED: "could not work on image {item}",
    AuditEvent.ITEM_QUARANTINED: "set image {item} aside",
    AuditEvent.REQUEST_OPENED: "asked for {faces:face} back ({urgency}; {quorum:approval} needed)",
    AuditEvent.REQUEST_APPROVED: "approved the request",
    AuditEvent.REQUEST_DENIED: "denied the request",
    AuditEvent.REQUEST_WITHDRAWN: "took the request back",
    AuditEvent.REQUEST_EXPIRED: "let the request expire",
    AuditEvent.REVIEW_OPENED: "opened the review of the broken glass",
    AuditEvent.REVIEW_CLOSED: "closed the review of the broken glass",
    AuditEvent.TICKET_ISSUED: "issued a ticket for {faces:face}",
    AuditEvent.TICKET_SPENT: "spent the ticket",
    AuditEvent.TICKET_RENEWED: "sealed the faces' keys to the recovery worker anew",
    AuditEvent.TICKET_REFUSED: "refused a ticket ({refusal})",
    AuditEvent.RECOVERY_RECOVERED: "recovered {faces:face}",
    AuditEvent.RECOVERY_FETCHED: "fetched the recovered faces",
    AuditEvent.RECOVERY_FAILED: "recovered nothing ({code})",
    AuditEvent.RECOVERY_REFUSED: "refused to recover ({code})",
    AuditEvent.RECOVERY_EXPIRED: "let the recovery expire",
    AuditEvent.PERSON_ADDED: "added {subject}, with a key to sign with",
    AuditEvent.PERSON_REMOVED: "removed {subject}",
}
PROVES = (
    "Every event in this bundle is in the audit trail, letter for letter and under the number that it has here. With the newest head the "
    "notary signed that trail as a whole: had one of these events been altered, moved or put in afterwards, the signature would not fit.",
    "The earlier head is a part of the newer one: the trail was only added to between the two.",
    "Each signed decision was signed with the key that the trail gave its signer, over the SHA-256 of the request's or order's terms.",
    "A file whose SHA-256 is listed is the one that was released.",
)
LIMITS = (
    "That nothing is missing: other events of this matter may have been left out, save those that a listed one needs (a ticket needs its "
    "request and its approvals). Compare the numbers: how many images were submitted, and how many are told of.",
    "What happened after the newest head.",
    "Who holds a person's key: the trail says which key they were added with, and the organisation answers for that.",
    "What the request's terms were in words: the trail knows their SHA-256 alone, and free text stays outside it.",
)


def summarise(about: str, wanted: str, events: Sequence[Body], heads: Sequence[Body]) -> str:
    """The page. `events` and `heads` are the JSON objects that were hashed and signed."""
    newest = heads[-1]
    lines = [
        f"# Evidence about {about} {wanted}",
        "",
        f"From the audit trail as it stood at {_time(newest['at'])}: "
        f"{number_of(newest['size'], 'event')}, signed by the notary's key {newest['key']}"
        + (f", after {number_of(newest['epoch'], 'accepted fork')}" if newest.get("epoch") else "")
        + f". By {_time(heads[0]['at'])} at the latest the notary had signed for the first event that is listed here.",
        "",
        "This page proves nothing by itself. `refacex audit check` does, with the notary's public key alone; so does any program written "
        "from `docs/audit-format.md`.",
        "",
        "## What happened",
        "",
        "| event | time (UTC) | who | what |",
        "|---|---|---|---|",
        *(_event_line(each) for each in events),
        "",
        *_files(events),
        *_signers(events),
        "## What this proves",
        "",
        *(f"- {words}" for words in PROVES),
        "",
        "## What it does not prove",
        "",
        *(f"- {words}" for words in LIMITS),
    ]
    return "\n".join(lines) + "\n"


def counted(events: Sequence[Body]) -> str:
    """How many images were submitted, and what became of those that the events tell of."""
    counts = [_detail(each).get("items", 0) for each in events if each["event"] == AuditEvent.RELEASE_SUBMITTED]
    submitted = sum(count for count in counts if isinstance(count, int))  # a stolen role writes what it likes
    ends = (AuditEvent.ITEM_RELEASED, AuditEvent.ITEM_HELD, AuditEvent.ITEM_FAILED, AuditEvent.ITEM_QUARANTINED)
    told = Counter(each["event"].removeprefix("item:") for each in events if each["event"] in ends)
    became = ", ".join(f"{count} {state}" for state, count in sorted(told.items())) or "none of them told of"
    return f"{number_of(submitted, 'image')} submitted; {became}"


def released(events: Sequence[Body]) -> dict[str, str]:
    """The item of each released file, by the file's SHA-256."""
    done = [each for each in events if each["event"] == AuditEvent.ITEM_RELEASED]
    return {str(_detail(each).get("sha256")): str(each["fields"].get("item")) for each in done}


def _event_line(event: Body) -> str:
    fields = event["fields"]
    known = {
        name: _Word(_plain(value))
        for name, value in {**_detail(event), **fields}.items()
        if isinstance(value, str | int)
    }
    template = str(WORDS.get(event["event"], event["event"]))
    words = template.format_map(_Known(known))
    return f"| {event['seq']} | {_time(event['at'])} | {known.get('actor', '')} | {words} |"


def _files(events: Sequence[Body]) -> list[str]:
    files = released(events)
    rows = [f"| {_plain(item)} | `{_plain(sha256)}` |" for sha256, item in files.items()]
    head = ["## Files that were released", "", f"{counted(events)}.", ""]
    return [*head, "| image | SHA-256 of the file |", "|---|---|", *rows, ""] if rows else [*head[:-1], ""]


def _signers(events: Sequence[Body]) -> list[str]:
    added = [each for each in events if each["event"] == AuditEvent.PERSON_ADDED]
    if not added:
        return []
    rows = [f"| {_plain(each['fields'].get('subject'))} | `{_plain(_detail(each).get('ed25519'))}` |" for each in added]
    return ["## Whose signatures they are", "", "| person | Ed25519 public key |", "|---|---|", *rows, ""]


def _detail(event: Body) -> Mapping[str, Any]:
    detail = event["fields"].get("detail")
    return detail if isinstance(detail, dict) else {}


def _time(moment: Any) -> str:
    return _plain(moment)[:19].replace("T", " ")


def _plain(value: Any) -> str:
    """A value as text that cannot break out of a table's cell."""
    text = "".join(letter if letter.isprintable() else " " for letter in str(value))
    return text.replace("|", "/").replace("<", "(").replace(">", ")").replace("`", "'")[:200]


class _Word(str):
    """A value in a sentence; `{faces:face}` gives it its noun."""

    def __format__(self, noun: str) -> str:
        return f"{self} {noun}{'' if self == '1' else 's'}" if noun else str(self)


class _Known(dict[str, _Word]):
    def __missing__(self, name: str) -> _Word:
        return _Word("?")
