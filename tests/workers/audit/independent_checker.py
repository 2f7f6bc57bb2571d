"""A second checker of evidence bundles, written from docs/audit-format.md; it shares no code with the product.

`python independent_checker.py BUNDLE NOTARY_HEX [CUSTODIAN_HEX [before-signatures]]` prints what is wrong, or nothing.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import sys
import zipfile
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

SIGNED = {
    "request:opened": "requester",
    "request:approved": "approver",
    "request:denied": "approver",
    "request:withdrawn": "requester",
    "recovery:fetched": "requester",
    "review:closed": "auditor",
    "order:given": "key-officer",
    "finding:acknowledged": "auditor",
    "release:submitted": "submitter",
    "person:added": "administrator",
    "person:removed": "administrator",
}
OPTIONAL = {"release:submitted", "person:added", "person:removed"}  # a signature that is there must hold
P = 2**255 - 19
D = -121665 * pow(121666, -1, P) % P  # of edwards25519, RFC 8032, section 5.1


class Wrong(Exception):
    """The bundle does not hold."""


def need(condition: bool, words: str) -> None:
    if not condition:
        raise Wrong(words)


def sha256(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()


def read_canonical(raw: bytes) -> Any:
    """RFC 8785 of what the trail holds: objects with ASCII names, strings, integers."""

    def integer(digits: str) -> int:
        need(abs(int(digits)) < 2**53, "too large a number")
        return int(digits)

    def no_float(_: str) -> float:
        raise Wrong("a fraction")

    value = json.loads(raw, parse_int=integer, parse_float=no_float, parse_constant=no_float)
    need(levels(value) <= 100, "too deep")
    again = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    need(again.encode() == raw, "not canonical")
    return value


def levels(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(levels, inner), default=0)


def hex_bytes(text: Any) -> bytes:
    raw = bytes.fromhex(text)
    need(raw.hex() == text, "hex is in small letters")
    return raw


def needs_a_secret(public: bytes) -> bool:
    """The canonical encoding of a point of none of the orders 1, 4, 2 (y is 1, 0, -1) and 8 (twice it has the y 0)."""
    y = int.from_bytes(public, "little") % 2**255
    return y < P and y * (y * y - 1) % P != 0 and (D * y**4 + 2 * y * y - 1) % P != 0


def signed_by(public: bytes, signature: bytes, message: bytes) -> bool:
    if not needs_a_secret(public):
        return False
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def check(data: bytes, public: bytes, custodian: bytes | None = None, *, before: bool = False) -> None:
    """Raises Wrong, or whatever reading a damaged file raises. With `custodian`, its own events are checked as well; `before`: unsigned
    ones ahead of the first signed one are accepted.
    """
    evidence = read_canonical(open_archive(data))
    fields = {"v", "what", "about", "events", "heads", "consistency", "notary", "summary"}
    need(set(evidence) == fields and evidence["v"] == 1 and evidence["what"] == "refacex evidence", "another format")
    key = hashlib.sha256(b"ed25519:" + public).hexdigest()[:16]
    need(evidence["notary"] == {"key": key, "public": public.hex()}, "another notary")
    heads = [check_head(head, key, public) for head in evidence["heads"]]
    need(len(heads) in (1, 2) and all(size >= 1 for size, _ in heads), "heads")
    need(len(heads) == 1 or heads[0][0] < heads[1][0], "heads out of order")
    check_consistency(heads[0], heads[-1], [hex_bytes(each) for each in evidence["consistency"]])
    events = check_events(evidence["events"], heads[-1])
    need(bool(events) and events[0]["seq"] < heads[0][0], "the first head does not cover the first event")
    check_matter(evidence["about"], events)
    check_people(events)
    check_shredded(events)
    if custodian is not None:
        check_custodian(events, custodian, before)


def open_archive(data: bytes) -> bytes:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        need(archive.namelist() == ["evidence.json", "summary.md"], "members")
        members = {name: archive.read(name) for name in archive.namelist()}
    again = io.BytesIO()
    with zipfile.ZipFile(again, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            entry = zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0))
            entry.create_system, entry.external_attr = 3, 0o644 << 16
            archive.writestr(entry, content)
    need(again.getvalue() == data, "the archive holds other bytes")
    said = json.loads(members["evidence.json"])["summary"]
    need(hashlib.sha256(members["summary.md"]).hexdigest() == said, "the summary is another")
    return members["evidence.json"]


def check_head(head: Any, key: str, public: bytes) -> tuple[int, bytes]:
    need(set(head) == {"body", "signature"}, "a head's fields")
    raw = head["body"].encode()
    need(signed_by(public, hex_bytes(head["signature"]), raw), "a head's signature")
    body = json.loads(raw)
    need((body["what"], body["v"], body["key"]) == ("refacex tree head", 1, key), "not a tree head")
    return body["size"], bytes.fromhex(body["root"])


def check_inclusion(leaf: bytes, index: int, size: int, path: list[bytes], root: bytes) -> bool:
    """RFC 9162, 2.1.3.2."""
    if index >= size:
        return False
    fn, sn, r = index, size - 1, leaf
    for p in path:
        if sn == 0:
            return False
        if fn & 1 or fn == sn:
            r = sha256(b"\x01", p, r)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            r = sha256(b"\x01", r, p)
        fn, sn = fn >> 1, sn >> 1
    return sn == 0 and r == root


def check_consistency(first: tuple[int, bytes], second: tuple[int, bytes], path: list[bytes]) -> None:
    """RFC 9162, 2.1.4.2."""
    (m, first_root), (n, second_root) = first, second
    if m == n:
        need(not path and first_root == second_root, "no proof is needed between one head and itself")
        return
    if m & (m - 1) == 0:
        path = [first_root, *path]
    need(bool(path), "the consistency proof is empty")
    fn, sn = m - 1, n - 1
    while fn & 1:
        fn, sn = fn >> 1, sn >> 1
    fr = sr = path[0]
    for c in path[1:]:
        need(sn != 0, "the consistency proof is too long")
        if fn & 1 or fn == sn:
            fr, sr = sha256(b"\x01", c, fr), sha256(b"\x01", c, sr)
            while not fn & 1 and fn != 0:
                fn, sn = fn >> 1, sn >> 1
        else:
            sr = sha256(b"\x01", sr, c)
        fn, sn = fn >> 1, sn >> 1
    need(fr == first_root and sr == second_root and sn == 0, "the newer head does not extend the older")


def check_events(entries: list[Any], head: tuple[int, bytes]) -> list[Any]:
    events, before = [], -1
    for entry in entries:
        need(set(entry) == {"canonical", "path"}, "an event's fields")
        raw = entry["canonical"].encode()
        event = read_canonical(raw)
        need(isinstance(event["fields"].get("detail", {}), dict), "a detail that is no object")
        need(event["v"] == 1 and type(event["seq"]) is int and event["seq"] > before, "events out of order")
        before = event["seq"]
        path = [hex_bytes(each) for each in entry["path"]]
        need(
            check_inclusion(sha256(b"\x00", raw), before, head[0], path, head[1]), f"event {before} is not in the tree"
        )
        events.append(event)
    return events


def check_matter(about: Any, events: list[Any]) -> None:
    ((kind, wanted),) = about.items()
    need(kind in ("release", "ticket") and str(UUID(wanted)) == wanted, "about what")
    pairs: list[tuple[Any, Any]] = [(wanted, None)]
    if kind == "ticket":
        issued = [e["fields"] for e in events if e["event"] == "ticket:issued" and e["fields"].get("ticket") == wanted]
        need(bool(issued), "no ticket:issued of this ticket")
        pairs = [(ids(each).get("release", ""), ids(each).get("request", "")) for each in issued]

    def direct(said: Any) -> bool:
        return any(said.get("release") == r and (q is None or said.get("request", q) == q) for r, q in pairs)

    names = ("request", "recovery")
    linked = {(n, v) for e in events if direct(e["fields"]) for n, v in ids(e["fields"]).items() if n in names}

    rest, signers = [], set()
    for event in events:
        said = event["fields"]
        if direct(said) or any((n, v) in linked for n, v in ids(said).items() if n in names):
            signers |= {ids(said).get("actor")} if is_signed(event) else set()
        else:
            rest.append(event)
    while found := [e for e in rest if e["event"].startswith("person:") and ids(e["fields"]).get("subject") in signers]:
        rest = [event for event in rest if event not in found]
        signers |= {ids(e["fields"]).get("actor") for e in found if is_signed(e)}
    need(not rest, "an event is of another matter")


def ids(said: Any) -> dict[str, str]:
    return {name: value for name, value in said.items() if isinstance(value, str)}


def is_signed(event: Any) -> bool:
    tag = event["event"]
    return tag in SIGNED and (tag not in OPTIONAL or "signature" in event["fields"].get("detail", {}))


def check_people(events: list[Any]) -> None:
    people: dict[str, Any] = {}
    gone: set[str] = set()
    requests: dict[str, Any] = {}
    spent: set[str] = set()
    glass: dict[str, str] = {}  # of a requester: the request whose review is open
    tenants: dict[str, Any] = {}
    any_signed = False
    for event in events:
        tag, said = event["event"], event["fields"]
        detail, actor = said.get("detail", {}), said.get("actor")
        if tag in ("release:submitted", "order:given"):
            check_tenant(tag, said, people.get(actor), tenants)
        if tag in ("person:added", "person:removed"):
            check_administration(tag, said, people, gone)
        elif tag in SIGNED:
            if tag == "review:closed":
                glass = {who: request for who, request in glass.items() if request != said["request"]}
            if "signature" in detail or (any_signed and tag not in OPTIONAL) or tag == "finding:acknowledged":
                any_signed = True
                check_signature(tag, said, people.get(actor), actor in gone)
            check_decision(tag, said, requests, people)
        elif tag == "review:opened":
            who = requests[said["request"]]["who"]
            need(who not in glass, f"{who} broke the glass before the last review was closed")
            glass[who] = said["request"]
        elif tag in ("ticket:issued", "ticket:spent"):
            known = requests[said["request"]]
            need(said["request_hash"] == known["hash"], "a ticket for other terms")
            if tag == "ticket:spent":
                need(known.get("issued", False), "spent and not issued")
                need(said["request"] not in spent, "spent twice")
                spent.add(said["request"])
            else:
                need(not known["denied"] and len(known["by"]) >= known["quorum"], "a ticket without its quorum")
                known["issued"] = True


def check_tenant(tag: str, said: Any, person: Any, tenants: dict[str, Any]) -> None:
    """Who signs a release, or orders about one, is of the tenant that it was submitted for."""
    detail, release = said.get("detail", {}), said.get("release")
    if tag == "release:submitted" and "tenant" in detail:
        tenants.setdefault(release, detail["tenant"])
    if release in tenants and person is not None and "signature" in detail:
        need(person["tenant"] == tenants[release], f"{tag} by somebody of another tenant")


def check_shredded(events: list[Any]) -> None:
    """Keys were shredded as of the release that their item was made in, and by retention when that had ended long enough ago."""
    made: dict[str, set[str]] = {}
    submitted: dict[str, list[datetime]] = {}
    ended: dict[str, list[datetime]] = {}
    for event in events:
        tag, said, at = event["event"], event["fields"], datetime.fromisoformat(event["at"])
        if tag in ("item:committed", "item:released"):
            made.setdefault(said["item"], set()).add(said.get("release"))
        elif tag == "release:submitted":
            submitted.setdefault(said["release"], []).append(at)
        elif tag in ("release:finished", "release:cancelled"):
            ended.setdefault(said["release"], []).append(at)
        elif tag == "key:shredded":
            release, detail = said["release"], said.get("detail", {})
            need(release in submitted and made.get(said["item"]) == {release}, "keys of another release were shredded")
            if detail.get("reason") == "retention":
                days = detail.get("retain_days")
                kept = timedelta(days=min(days, 1_000_000) if type(days) is int and days > 0 else 0)
                need(release in ended, "retired before its release ended")
                need(at - max(submitted[release] + ended[release]) >= kept, "retired before its time")


def check_administration(tag: str, said: Any, people: dict[str, Any], gone: set[str]) -> None:
    """A person is added, or removed, by who the tenant's administrator says, from its first one on; or enrolled."""
    who, detail = said["subject"], said.get("detail", {})
    about = people.get(who) if tag == "person:removed" else detail
    need(about is not None and who not in gone and (tag == "person:removed" or who not in people), f"{tag} of {who}")
    if "signature" in detail:
        admin = people.get(said["actor"])
        check_signature(tag, said, admin, said["actor"] in gone)
        need(admin["tenant"] == about["tenant"], "an administrator of another tenant")
        person = {name: about[name] for name in ("tenant", "ed25519", "x25519")}
        person |= {"v": 1, "what": "refacex person", "id": who, "roles": sorted(about["roles"])}
        person["passkeys"] = about.get("passkeys", [])
        canonical = json.dumps(person, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        need(said["request_hash"] == sha256(canonical.encode()).hex(), "another person was signed")
    else:
        administered = any(p["tenant"] == about["tenant"] and "administrator" in p["roles"] for p in people.values())
        enrolled = tag == "person:added" and "issuer" in detail and "administrator" not in detail["roles"]
        need(enrolled or not administered, f"no administrator signed for {who}")
    if tag == "person:added":
        need(all(map(needs_a_secret, ed25519_keys(detail))), f"{who} signs with a key that needs no secret")
        others = [key for other in people.values() for key in signing_keys(other)]
        need(not set(others) & set(signing_keys(detail)), f"{who} signs with another's key")
        people[who] = detail
    else:
        gone.add(who)


def ed25519_keys(person: Any) -> list[bytes]:
    keys = [load_der_public_key(bytes.fromhex(each["public"])) for each in person.get("passkeys", [])]
    return [
        bytes.fromhex(person["ed25519"]),
        *(key.public_bytes_raw() for key in keys if isinstance(key, Ed25519PublicKey)),
    ]


def signing_keys(person: Any) -> list[bytes]:
    keys = [load_der_public_key(bytes.fromhex(each["public"])) for each in person.get("passkeys", [])]
    raw = [
        key.public_bytes_raw()
        if isinstance(key, Ed25519PublicKey)
        else key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        for key in keys
    ]
    return [bytes.fromhex(person["ed25519"]), *raw]


def check_signature(tag: str, said: Any, person: Any, removed: bool) -> None:
    need(person is not None and not removed and SIGNED[tag] in person["roles"], f"who signed {tag}")
    code = re.fullmatch("[a-z0-9][a-z0-9._@-]{0,63}", str(said["detail"].get("reason")))
    need(tag != "finding:acknowledged" or code is not None, "a reason in words")
    words = {
        "request:opened": ["open request"],
        "request:approved": ["approve"],
        "request:denied": ["deny"],
        "request:withdrawn": ["withdraw"],
        "release:submitted": ["submit release"],
        "person:added": ["add person"],
        "person:removed": ["remove person"],
        "recovery:fetched": [f"fetch {said.get('recovery')}"],
        "review:closed": [f"review {said['detail'].get('conclusion')}"],
        "finding:acknowledged": [f"acknowledge {said.get('detail', {}).get('reason')}"],
        "order:given": [
            f"order {kind}" for kind in ("shred", "hold", "lift") if said["detail"].get("kind", kind) == kind
        ],
    }[tag]
    public, signature = bytes.fromhex(person["ed25519"]), bytes.fromhex(said["detail"]["signature"])
    messages = [f"refacex v2\n{each}\n{said['request_hash']}\n".encode() for each in words]
    if "assertion" in said["detail"]:
        keys = {each["id"]: bytes.fromhex(each["public"]) for each in person.get("passkeys", [])}
        need(any(answered(keys, said["detail"]["assertion"], signature, m) for m in messages), f"the passkey of {tag}")
        return
    need(any(signed_by(public, signature, message) for message in messages), f"the signature of {tag}")


def answered(keys: dict[str, bytes], assertion: Any, signature: bytes, message: bytes) -> bool:
    """Whether a passkey signed the SHA-256 of the message as its challenge, its holder present and verified."""
    data, client = (
        base64.b64decode(assertion[name] + "==", altchars=b"-_") for name in ("authenticator_data", "client_data")
    )
    said, wanted = json.loads(client), base64.urlsafe_b64encode(sha256(message)).rstrip(b"=").decode()
    if (said["type"], said["challenge"]) != ("webauthn.get", wanted) or len(data) < 37 or data[32] & 5 != 5:
        return False
    key = load_der_public_key(keys[assertion["credential"]])
    try:
        if isinstance(key, Ed25519PublicKey):
            key.verify(signature, data + sha256(client))
        else:
            key.verify(signature, data + sha256(client), ECDSA(SHA256()))  # type: ignore[union-attr,call-arg,arg-type]
    except InvalidSignature:
        return False
    return True


def check_decision(tag: str, said: Any, requests: dict[str, Any], people: dict[str, Any]) -> None:
    if tag in ("order:given", "release:submitted", "finding:acknowledged"):
        return
    if tag == "request:opened":
        need(said["request"] not in requests, "opened twice")
        opened = {"by": set(), "denied": False, "who": said["actor"], "hash": said["request_hash"]}
        requests[said["request"]] = opened | {"quorum": said["detail"]["quorum"]}
        return
    known = requests[said["request"]]
    need(said["request_hash"] == known["hash"], "other terms")
    tenants = {people[who]["tenant"] for who in (said["actor"], known["who"]) if who in people}
    need(len(tenants) < 2, "somebody of another tenant")
    by_requester = tag in ("request:withdrawn", "recovery:fetched")
    need((said["actor"] == known["who"]) == by_requester, "by the wrong person")
    if tag == "review:closed":
        need(said["actor"] not in known["by"], "reviewed by who decided")
    elif not by_requester:
        need(said["actor"] not in known["by"], "decided twice")
        known["by"].add(said["actor"])
        known["denied"] |= tag == "request:denied"


def check_custodian(events: list[Any], public: bytes, before: bool) -> None:
    """What the custodian wrote is signed by it, from the first on or, with `before`, once the first is; no signature stands twice."""
    key = hashlib.sha256(b"ed25519:" + public).hexdigest()[:16]
    prefixes = ("ticket:", "key:", "ledger:", "pinned:", "subject:", "review:opened", "order:done", "order:refused")
    signing, seen = not before, set()
    for event in events:
        tag, said = event["event"], event["fields"]
        if event["role"] != "refacex_custodian" and not tag.startswith(prefixes):
            continue
        mark = said.get("detail", {}).get("custodian")
        if mark is None and not signing:
            continue
        signing = True
        need(mark is not None and mark["key"] == key, f"{tag} is not signed by the custodian")
        signature = bytes.fromhex(mark["signature"])
        rest = {name: value for name, value in mark.items() if name != "signature"}
        signed = {"event": tag, "fields": said | {"detail": said["detail"] | {"custodian": rest}}}
        text = json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        need(signed_by(public, signature, b"refacex custodian event 1\n" + text.encode()), f"the custodian's {tag}")
        need(signature not in seen, f"{tag} stands twice")
        seen.add(signature)


if __name__ == "__main__":
    try:
        given = [bytes.fromhex(each) for each in sys.argv[2:4]]
        check(Path(sys.argv[1]).read_bytes(), *given, before=sys.argv[4:] == ["before-signatures"])
    except Exception as error:
        sys.exit(f"it does not hold: {type(error).__name__}: {error}")
