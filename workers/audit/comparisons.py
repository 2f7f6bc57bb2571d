"""The statements that hold tables against the trail. Each gives `(where, words)` of what does not agree, and reads only the
events of the kinds that it names.
"""

# ruff: noqa: S608  the statements are put together from this file's own words alone

from __future__ import annotations

from schemas.audit import AuditEvent as Tag
from schemas.submissions import NOBODY
from workers.audit.statements import (
    LIST,
    TRUTH,
    WHOLE,
    WHOLES,
    Comparison,
    cast,
    compare,
    elements,
    first,
    json_of,
    number,
    row,
    shapes,
)

# What the trail says of recoveries; a shredded key ends those that it had opened.
_OF_RECOVERIES = (
    "(SELECT seq, rank, doubted, event, recovery, request, detail FROM told WHERE event <> 'key:shredded' UNION ALL "
    "SELECT seq, rank, doubted, event, each, NULL, NULL "
    f"FROM told AS t CROSS JOIN LATERAL {elements('recoveries')} AS each WHERE event = 'key:shredded')"
)
_SHREDS = "(SELECT * FROM told WHERE detail ->> 'kind' = 'shred' AND NOT doubted)"
_SIGNED = "NOT t.doubted AND t.detail ? 'signature'"
_CREATED = "t.detail ->> 'created_at'"
_HASH = "encode({}.canonical_sha256, 'hex')"
# Only where the event has a signature: what nobody signed is told by `workers.audit.signed`.
_OTHER_SIGNATURE = (
    "t.detail ? 'signature' AND t.detail ->> 'signature' IS DISTINCT FROM encode({}.signature, 'hex') "
    "THEN 'its signature is not the one in the trail'"
)

_SIGNED = "NOT t.doubted AND t.detail ? 'signature'"
_POLICY = ("t.detail ->> 'tenant'", "t.detail ->> 'name'", number("version"))
_KEY = "(t.detail ->> 'key')"
_EXPORT = "t.detail ->> 'export'"
_KEPT = cast("p.body ->> 'retain_days'", "numeric")
# In seconds, as numbers that know no end: days, and times, are what somebody wrote.
_EARLY = "extract(epoch FROM t.at) < extract(epoch FROM e.at) + 86400 * greatest(0, least(coalesce(t.days, p.days, 0), 1000000))"

COMPARISONS: tuple[Comparison, ...] = (
    shapes(
        "values of events",
        {
            Tag.RELEASE_SUBMITTED: {"items": WHOLE, "subjects": WHOLE},
            Tag.REQUEST_OPENED: {"quorum": WHOLE},
            Tag.RECOVERY_RECOVERED: {"faces": WHOLE},
            Tag.KEY_SHREDDED: {"faces": WHOLES, "layout": TRUTH, "recoveries": LIST},
            Tag.KEY_REWRAPPED: {"count": WHOLE},
            Tag.PERSON_ADDED: {"roles": LIST},
            Tag.POLICY_SET: {"version": WHOLE},
        },
    ),
    compare(
        "releases",
        (Tag.RELEASE_SUBMITTED,),
        row("release", "r.id", "t.release", _SIGNED),
        "(SELECT r.*, i.items, i.subjects, encode(sha256(r.names_salt || i.named), 'hex') AS names_sha256, encode(sha256(i.shown), 'hex') "
        "AS subjects_sha256 FROM releases AS r CROSS JOIN LATERAL (SELECT count(*) AS items, count(DISTINCT i.subject_id) AS subjects, "
        "string_agg(uuid_send(i.id) || sha256(convert_to(i.relative_name, 'UTF8')), '' ORDER BY i.position) AS named, "
        f"string_agg(uuid_send(i.id) || uuid_send(coalesce(i.subject_id, '{NOBODY}')), '' ORDER BY i.position) AS shown "
        "FROM items AS i WHERE i.release_id = r.id) AS i) AS r "
        f"FULL JOIN {first('t.release')} AS t ON t.release = r.id::text",
        "t.actor <> r.submitted_by THEN 'submitted by somebody else than the trail says'",
        f"{number('items')} <> r.items THEN 'has another number of items than the trail says'",
        f"{number('subjects')} <> r.subjects THEN 'shows another number of subjects than the trail says'",
        "t.detail ->> 'names_sha256' IS DISTINCT FROM r.names_sha256 THEN 'its file names are not those that were submitted'",
        "t.detail ? 'subjects_sha256' AND t.detail ->> 'subjects_sha256' IS DISTINCT FROM r.subjects_sha256 "
        "THEN 'its images show other subjects than the trail says'",
        "t.detail ? 'policy' AND t.detail ->> 'policy' <> coalesce(r.policy ->> 'name', 'default') "
        "THEN 'has another policy than the trail says'",
        "t.detail ? 'tenant' AND t.detail ->> 'tenant' IS DISTINCT FROM r.tenant THEN 'is of another tenant than the trail says'",
        _OTHER_SIGNATURE.format("r"),
        "r.signature IS NOT NULL AND NOT coalesce(t.detail ? 'signature', false) THEN 'is signed, and the trail does not say so'",
        "r.signature IS NULL AND EXISTS (SELECT FROM policies AS p WHERE p.tenant = r.tenant AND encode(p.canonical_sha256, 'hex') = "
        "t.detail ->> 'policy_sha256' AND p.body ->> 'signed_submissions' = 'true') "
        "THEN 'was submitted unsigned, and its policy takes signed submissions alone'",
        alone=(
            "t.seq IS NULL THEN 'the trail has no release:submitted of it'",
            "r.id IS NULL THEN 'release:submitted, and the release is gone'",
        ),
    ),
    compare(
        "finished releases",
        (Tag.RELEASE_FINISHED, Tag.RELEASE_CANCELLED),
        "coalesce('release ' || r.id, 'event ' || t.seq)",
        "(SELECT * FROM releases WHERE state IN ('finished', 'cancelled')) AS r FULL JOIN told AS t "
        "ON t.release = r.id::text AND t.event = 'release:' || r.state",
        alone=(
            "t.seq IS NULL THEN 'it is ' || r.state || ', and the trail does not say so'",
            "r.id IS NULL THEN t.event || ', and its row does not say so'",
        ),
    ),
    compare(
        "reports",
        (Tag.RELEASE_REPORTED,),
        "coalesce('release ' || r.id, 'event ' || t.seq)",
        "(SELECT * FROM releases WHERE report_sha256 IS NOT NULL) AS r "
        f"FULL JOIN {first('t.release')} AS t ON t.release = r.id::text",
        "t.detail ->> 'sha256' IS DISTINCT FROM r.report_sha256 THEN 'the trail knows another hash of its report'",
        alone=(
            "t.seq IS NULL THEN 'it has a report, and the trail does not say so'",
            "r.id IS NULL THEN 'release:reported, and no report is of that release'",
        ),
    ),
    compare(
        "released items",
        (Tag.ITEM_RELEASED,),
        "coalesce('item ' || i.id, 'event ' || t.seq)",
        "(SELECT i.*, a.id AS attempt, a.sha256 AS made, a.object_key AS put, a.model_version FROM items AS i LEFT JOIN attempts AS a "
        "ON a.item_id = i.id AND a.state = 'published' WHERE i.state = 'done') AS i "
        f"FULL JOIN {first('t.item')} AS t ON t.item = i.id::text",
        "t.release <> i.release_id::text THEN 'it was released in another release'",
        "t.detail ->> 'sha256' IS DISTINCT FROM i.sha256 THEN 'its SHA-256 is not the one that was released'",
        "t.detail ->> 'attempt' IS DISTINCT FROM i.attempt::text OR i.made <> i.sha256 OR i.put <> i.object_key "
        "THEN 'its published attempt is not the one that was released'",
        "t.model_version IS DISTINCT FROM i.model_version THEN 'its model is not the one that the trail names'",
        alone=(
            "t.seq IS NULL THEN 'it is done, and the trail has no item:released of it'",
            "i.id IS NULL THEN 'item:released, and no item is done that it could be of'",
        ),
    ),
    compare(
        "attempts",
        (Tag.ITEM_COMMITTED,),
        "coalesce('event ' || t.seq, 'item ' || a.item_id)",
        # Its own keys are those of the layout and of the faces 0, 1, ...: any other hides none that is gone.
        "(SELECT a.*, coalesce(k.keys, 0) AS keys, k.faces FROM attempts AS a LEFT JOIN (SELECT attempt_id, count(*) AS keys, "
        "array_agg(face::bigint) AS faces FROM sealed_keys GROUP BY attempt_id) AS k ON k.attempt_id = a.id) AS a "
        "FULL JOIN told AS t ON t.detail ->> 'attempt' = a.id::text "
        f"CROSS JOIN LATERAL (SELECT {number('keys')} AS said) AS s CROSS JOIN LATERAL (SELECT count(DISTINCT face) AS own "
        "FROM unnest(a.faces) AS face WHERE face >= -1 AND face + 2 <= s.said) AS k",
        # What is counted stands in the words: another number is another finding.
        "s.said <> a.keys OR s.said <> k.own THEN 'item:committed with ' || s.said || ' keys, and the attempt has ' || k.own "
        "|| ' of them, and ' || a.keys - k.own || ' besides'",
        "t.item IS DISTINCT FROM a.item_id::text THEN 'item:committed, and the attempt is at item ' || a.item_id",
        "t.detail ->> 'sha256' IS DISTINCT FROM a.sha256 THEN 'item:committed, and the attempt made the file ' || a.sha256",
        alone=(
            "t.seq IS NULL THEN 'an attempt at it has no item:committed in the trail'",
            "a.id IS NULL THEN 'item:committed, and there is no such attempt'",
        ),
    ),
    compare(
        "items that were not released",
        (Tag.ITEM_HELD, Tag.ITEM_FAILED, Tag.ITEM_QUARANTINED),
        "coalesce('item ' || i.id, 'event ' || t.seq)",
        "(SELECT * FROM items WHERE state IN ('held', 'failed', 'quarantined')) AS i FULL JOIN told AS t "
        "ON t.item = i.id::text AND t.event = 'item:' || i.state",
        alone=(
            "t.seq IS NULL THEN 'it is ' || i.state || ', and the trail does not say so'",
            "i.id IS NULL THEN t.event || ', and it is not so'",
        ),
    ),
    compare(
        "requests",
        (Tag.REQUEST_OPENED,),
        row("request", "r.id", "t.request", _SIGNED),
        f"recovery_requests AS r FULL JOIN {first('t.request')} AS t ON t.request = r.id::text",
        f"t.request_hash IS DISTINCT FROM {_HASH.format('r')} OR r.canonical_sha256 <> sha256(r.canonical) "
        "THEN 'its hash is not the one in the trail'",
        "t.actor <> r.requester OR t.release <> r.release_id::text THEN 'its requester or release is not the one in the trail'",
        f"{number('quorum')} <> r.quorum THEN 'its quorum is not the one in the trail'",
        _OTHER_SIGNATURE.format("r"),
        alone=(
            "t.seq IS NULL THEN 'the trail has no request:opened of it'",
            "r.id IS NULL THEN 'request:opened, and the request is gone'",
        ),
    ),
    compare(
        "states of requests",
        (
            Tag.REQUEST_APPROVED,
            Tag.REQUEST_DENIED,
            Tag.REQUEST_WITHDRAWN,
            Tag.REQUEST_EXPIRED,
            Tag.TICKET_SPENT,
            Tag.TICKET_REFUSED,
            Tag.RECOVERY_RECOVERED,
            Tag.RECOVERY_FAILED,
            Tag.RECOVERY_REFUSED,
            Tag.RECOVERY_EXPIRED,
            Tag.KEY_SHREDDED,
        ),
        "'request ' || r.id",
        "recovery_requests AS r LEFT JOIN (SELECT coalesce(t.request, k.request_id::text) AS request, "
        "array_agg(t.event) AS events, array_agg(t.event) FILTER (WHERE NOT t.doubted) AS sure, "
        f"count(*) FILTER (WHERE t.event = 'request:approved') AS approvals FROM {_OF_RECOVERIES} AS t LEFT JOIN recoveries AS v "
        "ON v.id::text = t.recovery LEFT JOIN tickets AS k ON k.id = v.ticket_id GROUP BY 1) AS t ON t.request = r.id::text",
        "r.state = 'open' AND t.sure && ARRAY['request:denied', 'request:withdrawn', 'ticket:spent'] "
        "THEN 'it is open, and the trail has closed it'",
        "r.state = 'approved' AND (coalesce(t.approvals, 0) < r.quorum "
        "OR t.sure && ARRAY['request:denied', 'request:withdrawn', 'ticket:spent']) "
        "THEN 'it is approved, and by the trail it is not'",
        "r.state = 'denied' AND NOT coalesce('request:denied' = ANY (t.events), false) THEN 'it is denied, and the trail has no denial'",
        "r.state <> 'denied' AND 'request:denied' = ANY (t.sure) THEN 'it is ' || r.state || ', and the trail has a denial'",
        "r.state = 'withdrawn' AND NOT coalesce('request:withdrawn' = ANY (t.events), false) "
        "THEN 'it is withdrawn, and the trail does not say so'",
        "r.state <> 'withdrawn' AND 'request:withdrawn' = ANY (t.sure) "
        "THEN 'it is ' || r.state || ', and the trail says that it was withdrawn'",
        "r.state IN ('recovering', 'done') AND NOT coalesce('ticket:spent' = ANY (t.events), false) "
        "THEN 'it is ' || r.state || ', and the trail has no ticket:spent of it'",
        "r.state = 'done' AND NOT coalesce('recovery:recovered' = ANY (t.events), false) "
        "THEN 'it is done, and the trail has no recovery:recovered of it'",
        "r.state = 'expired' AND NOT coalesce(t.events && ARRAY['request:expired', 'ticket:refused', 'recovery:expired'], false) "
        "THEN 'it is expired, and the trail does not say so'",
        "r.state = 'failed' AND NOT coalesce(t.events && "
        "ARRAY['ticket:refused', 'recovery:failed', 'recovery:refused', 'key:shredded'], false) "
        "THEN 'it is failed, and the trail does not say so'",
    ),
    compare(
        "ends of requests",
        (Tag.REQUEST_EXPIRED,),
        "'event ' || t.seq",
        "told AS t LEFT JOIN recovery_requests AS r ON r.id::text = t.request",
        "NOT t.doubted AND r.state IS DISTINCT FROM 'expired' THEN t.event || ', and it is ' || coalesce(r.state::text, 'gone')",
    ),
    compare(
        "approvals",
        (Tag.REQUEST_APPROVED, Tag.REQUEST_DENIED),
        row("approval of request", "a.request_id || ' by ' || a.approver", "t.request || ' by ' || t.actor"),
        f"approvals AS a FULL JOIN {first('t.request', 't.actor')} AS t ON t.request = a.request_id::text AND t.actor = a.approver",
        "(a.decision = 'approve') <> (t.event = 'request:approved') THEN 'the trail says ' || t.event",
        _OTHER_SIGNATURE.format("a"),
        alone=(
            "t.seq IS NULL THEN 'the trail has no event of it'",
            "a.request_id IS NULL THEN t.event || ' by ' || t.actor || ', and there is no such decision'",
        ),
    ),
    compare(
        "tickets",
        (Tag.TICKET_ISSUED, Tag.TICKET_SPENT),
        row("ticket", "k.id", "t.ticket"),
        "(SELECT k.*, v.id AS recovery, each.event AS expected FROM tickets AS k LEFT JOIN recoveries AS v ON v.ticket_id = k.id "
        "CROSS JOIN (VALUES ('ticket:issued'), ('ticket:spent')) AS each (event) "
        "WHERE each.event = 'ticket:issued' OR k.spent_at IS NOT NULL) AS k "
        f"FULL JOIN {first('t.ticket', 't.event')} AS t ON t.ticket = k.id::text AND t.event = k.expected",
        "t.request IS DISTINCT FROM k.request_id::text THEN 'it is of another request than the trail says'",
        "t.detail ? 'sha256' AND t.detail ->> 'sha256' IS DISTINCT FROM encode(sha256(k.canonical), 'hex') "
        "THEN 'its bytes are not those that were issued'",
        "t.event = 'ticket:spent' AND t.recovery IS DISTINCT FROM k.recovery::text THEN 'it was spent on another recovery'",
        alone=(
            "t.seq IS NULL THEN 'the trail has no ' || k.expected || ' of it'",
            "k.id IS NULL THEN t.event || ', and no row says so'",
        ),
    ),
    compare(
        "recoveries",
        (
            Tag.RECOVERY_RECOVERED,
            Tag.RECOVERY_FETCHED,
            Tag.RECOVERY_FAILED,
            Tag.RECOVERY_REFUSED,
            Tag.RECOVERY_EXPIRED,
            Tag.TICKET_REFUSED,
            Tag.KEY_SHREDDED,
        ),
        "coalesce('recovery ' || v.id, 'recovery ' || t.recovery)",
        "(SELECT id, state FROM recoveries) AS v FULL JOIN "
        "(SELECT recovery, array_agg(event) AS events, array_agg(event ORDER BY seq) FILTER (WHERE NOT doubted AND event IN "
        "('recovery:fetched', 'ticket:refused', 'key:shredded')) AS sure, (array_agg("
        f"{number('faces')} ORDER BY rank) FILTER (WHERE event = 'recovery:recovered'))[1] AS faces "
        f"FROM {_OF_RECOVERIES} AS t WHERE recovery IS NOT NULL GROUP BY recovery) AS t "
        "ON t.recovery = v.id::text LEFT JOIN (SELECT recovery_id, count(*) AS faces FROM recovered_faces GROUP BY recovery_id) AS n "
        "ON n.recovery_id = v.id",
        "v.state = 'fetched' AND NOT coalesce('recovery:fetched' = ANY (t.events), false) "
        "THEN 'it is fetched, and the trail says otherwise of its fetching'",
        "v.state <> 'fetched' AND 'recovery:fetched' = ANY (t.sure) "
        "THEN 'it is ' || v.state || ', and the trail says otherwise of its fetching'",
        "v.state = 'recovered' AND NOT coalesce('recovery:recovered' = ANY (t.events), false) "
        "THEN 'it is recovered, and the trail has no recovery:recovered of it'",
        "v.state = 'bound' AND t.sure IS NOT NULL THEN 'it is bound, and the trail says ' || t.sure[1]",
        "v.state = 'failed' AND NOT coalesce(t.events && ARRAY['recovery:failed', 'recovery:refused', 'ticket:refused', "
        "'key:shredded'], false) "
        "THEN 'it is failed, and the trail does not say so'",
        "v.state = 'expired' AND NOT coalesce(t.events && ARRAY['recovery:expired', 'key:shredded'], false) "
        "THEN 'it is expired, and the trail does not say so'",
        "v.state IN ('bound', 'failed') AND n.faces > 0 THEN 'it is ' || v.state || ', and has recovered faces'",
        "coalesce(n.faces, 0) <> coalesce(t.faces, 0) AND (n.faces > 0 OR v.state IN ('recovered', 'fetched')) "
        "THEN 'it has another number of recovered faces than the trail says'",
        alone=("v.id IS NULL AND t.sure IS NOT NULL THEN t.sure[1] || ', and the recovery is gone'",),
    ),
    compare(
        "ends of recoveries",
        (Tag.RECOVERY_RECOVERED, Tag.RECOVERY_FAILED, Tag.RECOVERY_REFUSED, Tag.RECOVERY_EXPIRED),
        "'event ' || t.seq",
        "told AS t LEFT JOIN recoveries AS v ON v.id::text = t.recovery "
        "LEFT JOIN (SELECT DISTINCT recovery_id FROM recovered_faces) AS n ON n.recovery_id = v.id",
        "NOT CASE t.event WHEN 'recovery:recovered' THEN v.state IN ('recovered', 'fetched', 'expired') "
        "WHEN 'recovery:expired' THEN v.state = 'expired' ELSE v.state = 'failed' END THEN t.event || ', and it is ' || v.state",
        "t.event = 'recovery:recovered' AND v.state = 'expired' AND n.recovery_id IS NULL THEN t.event || ', and it has no faces'",
        alone=("v.id IS NULL THEN t.event || ', and the recovery is gone'",),
    ),
    compare(
        "shredded keys",
        (Tag.KEY_SHREDDED,),
        "coalesce('key of face ' || coalesce(k.face, t.face) || ' of item ' || coalesce(k.item_id::text, t.item), 'event ' || t.seq)",
        "(SELECT DISTINCT item_id, face FROM sealed_keys WHERE state = 'shredded') AS k FULL JOIN (SELECT item, "
        f"{cast('each', 'bigint')} AS face, min(seq) AS seq, bool_and(doubted) AS doubted FROM told AS t "
        f"CROSS JOIN LATERAL (SELECT {elements('faces')} UNION ALL "
        "SELECT '-1' WHERE detail -> 'layout' = 'true') AS each (each) GROUP BY 1, 2) AS t "
        "ON t.item = k.item_id::text AND t.face = k.face",
        alone=(
            "t.seq IS NULL THEN 'shredded, and the trail does not say so'",
            "NOT t.doubted AND EXISTS (SELECT FROM sealed_keys AS s WHERE "
            f"s.item_id = {cast('t.item', 'uuid')} AND s.face = t.face AND s.state <> 'shredded') "
            "THEN 'shredded by the trail, and it has come back'",
            "NOT t.doubted AND k.item_id IS NULL THEN 'shredded by the trail, and its row is gone'",
        ),
    ),
    compare(
        "whose shredded keys were",
        (Tag.KEY_SHREDDED, Tag.RELEASE_SUBMITTED, Tag.ITEM_COMMITTED, Tag.ITEM_RELEASED),
        "'event ' || t.seq",
        "(SELECT * FROM told WHERE event = 'key:shredded') AS t LEFT JOIN (SELECT release, min(seq) AS first FROM told "
        "WHERE event = 'release:submitted' GROUP BY release) AS r ON r.release = t.release LEFT JOIN (SELECT item, min(seq) AS first, "
        "min(release) AS least, max(release) AS most FROM told WHERE event LIKE 'item:%' GROUP BY item) AS i ON i.item = t.item",
        "NOT coalesce(r.first < t.seq, false) THEN 'key:shredded, and the trail knows no such release before it'",
        "NOT coalesce(i.first < t.seq, false) THEN 'key:shredded, and the trail knows no keys of such an item before it'",
        "i.least <> t.release OR i.most <> t.release THEN 'key:shredded as of another release than its item was made in'",
    ),
    compare(
        "why keys were shredded",
        (Tag.KEY_SHREDDED, Tag.ORDER_GIVEN),
        "'event ' || t.seq",
        "(SELECT *, min(seq) FILTER (WHERE detail ->> 'reason' <> 'tombstone') OVER (PARTITION BY item) AS first FROM told "
        f"WHERE event = 'key:shredded') AS t LEFT JOIN (SELECT * FROM {first('t.request_hash')} AS o WHERE o.event = 'order:given') AS o "
        "ON o.request_hash = t.request_hash",
        "t.detail ? 'order' AND NOT coalesce(o.seq < t.seq, false) THEN 'key:shredded by an order that the trail does not know before it'",
        "o.seq IS NOT NULL AND CASE o.detail ->> 'scope' WHEN 'subject' THEN t.subject IS DISTINCT FROM o.subject WHEN 'release' THEN "
        "t.release IS DISTINCT FROM o.release ELSE t.item IS DISTINCT FROM o.item END "
        "THEN 'key:shredded by an order for something else'",
        "o.detail ->> 'scope' = 'face' AND t.detail -> 'faces' NOT IN (jsonb_build_array(o.detail -> 'face'), '[]') "
        "THEN 'key:shredded by an order for another face'",
        "t.detail ->> 'reason' = 'tombstone' AND NOT t.detail ?| ARRAY['order', 'policy_sha256'] AND NOT coalesce(t.first < t.seq, false) "
        "THEN 'key:shredded as what came back, and the trail does not say that it was shredded before'",
    ),
    compare(
        "keys whose time was over",
        (Tag.KEY_SHREDDED, Tag.RELEASE_SUBMITTED, Tag.RELEASE_FINISHED, Tag.RELEASE_CANCELLED),
        "'event ' || t.seq",
        # What the custodian signed of its own policy counts; of before it did, the least that any version in the trail says.
        f"(SELECT t.*, {number('retain_days')} AS days FROM told AS t WHERE t.event = 'key:shredded' "
        "AND (t.detail ->> 'reason' = 'retention' OR t.detail ? 'policy_sha256')) AS t LEFT JOIN (SELECT release, "
        "min(seq) FILTER (WHERE event <> 'release:submitted') AS ended, greatest(min(at) FILTER (WHERE event <> 'release:submitted'), "
        "min(at) FILTER (WHERE event = 'release:submitted')) AS at, (array_agg(detail ->> 'policy' ORDER BY seq))[1] AS policy, "
        "(array_agg(detail ->> 'tenant' ORDER BY seq))[1] AS tenant FROM told WHERE event <> 'key:shredded' GROUP BY release) AS e "
        "ON e.release = t.release "
        f"LEFT JOIN LATERAL (SELECT min({_KEPT}) AS days FROM policies AS p "
        "WHERE p.name = e.policy AND p.tenant = coalesce(e.tenant, p.tenant)) AS p ON t.days IS NULL",
        "NOT coalesce(e.ended < t.seq, false) THEN 'key:shredded as of a release whose time is over, and by the trail it had not ended'",
        f"{_EARLY} THEN 'key:shredded before its time was over'",
        # Of rows that are what their canonical form says: what else stands there is found by itself.
        "EXISTS (SELECT FROM policies AS q WHERE encode(q.canonical_sha256, 'hex') = t.detail ->> 'policy_sha256' "
        f"AND q.body = {json_of('q.canonical')} AND q.body ->> 'tenant' = q.tenant AND q.body ->> 'name' = q.name AND (q.name <> e.policy "
        "OR q.tenant <> e.tenant OR q.body ->> 'retain_days' IS DISTINCT FROM t.detail ->> 'retain_days')) "
        "THEN 'key:shredded by another policy than its release has'",
    ),
    compare(
        "releases shredded whole",
        (Tag.ORDER_DONE, Tag.RELEASE_SUBMITTED),
        "'event ' || t.seq",
        f"(SELECT t.*, {number('items')} AS items FROM told AS t WHERE t.event = 'order:done' AND t.detail ->> 'kind' = 'shred' "
        f"AND t.detail ->> 'scope' = 'release') AS t LEFT JOIN (SELECT t.release, (array_agg({number('items')} ORDER BY seq))[1] AS items "
        "FROM told AS t "
        "WHERE t.event = 'release:submitted' GROUP BY t.release) AS r ON r.release = t.release",
        "t.items < r.items THEN 'order:done for fewer items than the release was submitted with'",
    ),
    compare(
        "keys of what was shredded",
        (Tag.ORDER_DONE,),
        "'item ' || i.id",
        f"(SELECT t.seq, i.id, NULL::bigint AS face FROM {_SHREDS} AS t JOIN items AS i "
        f"ON i.release_id = {cast('t.release', 'uuid')} UNION ALL "
        f"SELECT t.seq, i.id, NULL FROM {_SHREDS} AS t JOIN items AS i ON i.subject_id = {cast('t.subject', 'uuid')} UNION ALL "
        f"SELECT t.seq, i.id, {number('face')} FROM {_SHREDS} AS t JOIN items AS i ON i.id = {cast('t.item', 'uuid')}) AS i",
        "EXISTS (SELECT FROM sealed_keys AS k WHERE k.item_id = i.id AND k.face = coalesce(i.face, k.face) AND k.state <> 'shredded') "
        "THEN 'its keys were shredded by the order:done of event ' || i.seq || ', and one is still there'",
    ),
    compare(
        "subjects of shredded items",
        (Tag.KEY_SHREDDED,),
        "'item ' || i.id",
        f"told AS t JOIN items AS i ON i.id = {cast('t.item', 'uuid')}",
        "NOT t.doubted AND coalesce(t.subject, '') <> coalesce(i.subject_id::text, '') "
        "THEN 'it shows another subject than when its keys were shredded'",
    ),
    compare(
        "custody keys",
        (Tag.KEY_CREATED,),
        row("custody key", "k.id", _KEY),
        f"custody_keys AS k FULL JOIN {first(_KEY)} AS t ON {_KEY} = k.id",
        f"t.detail ->> 'suite' IS DISTINCT FROM k.suite OR {cast(_CREATED, 'timestamptz')} IS DISTINCT FROM k.created_at "
        "THEN 'its suite or its beginning is not the one in the trail'",
        alone=(
            "t.seq IS NULL THEN 'the trail has no key:created of it'",
            "k.id IS NULL THEN 'key:created, and the key is not on the register'",
        ),
    ),
    compare(
        "retired custody keys",
        (Tag.KEY_RETIRED,),
        row("custody key", "k.id", _KEY),
        f"(SELECT * FROM custody_keys WHERE retired_at IS NOT NULL) AS k FULL JOIN {first(_KEY)} AS t ON {_KEY} = k.id",
        alone=(
            "t.seq IS NULL THEN 'retired, and the trail does not say so'",
            "k.id IS NULL THEN 'key:retired, and no such key is'",
        ),
    ),
    compare(
        "rotations",
        (Tag.KEY_ROTATION_STARTED, Tag.KEY_REWRAPPED, Tag.KEY_ROTATION_FINISHED),
        "coalesce('custody key ' || k.id, 'event ' || t.newest)",
        # `rewrapped` begins anew with each rotation.
        "custody_keys AS k FULL JOIN (SELECT key, max(seq) AS newest, max(began) AS began, max(seq) FILTER (WHERE event = "
        "'key:rotation_finished') AS ended, sum(count) FILTER (WHERE event = 'key:rewrapped' AND seq > began) AS rewrapped FROM (SELECT "
        f"t.seq, t.event, t.detail ->> 'to' AS key, {number('count')} AS count, max(t.seq) FILTER (WHERE t.event = 'key:rotation_started') "
        "OVER (PARTITION BY t.detail ->> 'to') AS began FROM told AS t WHERE NOT t.doubted) AS each GROUP BY key) AS t ON t.key = k.id",
        "k.rotating <> coalesce(t.began > coalesce(t.ended, -1), false) THEN 'the trail says otherwise of the rotation to it'",
        "k.rewrapped <> coalesce(t.rewrapped, 0) THEN 'another number of keys was wrapped again under it than the trail says'",
        alone=("k.id IS NULL THEN 'the trail rotates to a key that is not on the register'",),
    ),
    compare(
        "orders",
        (Tag.ORDER_GIVEN,),
        row("order", "o.id", "t.request_hash"),
        f"(SELECT o.*, {json_of('o.canonical')} AS said FROM custody_orders AS o) AS o FULL JOIN {first('t.request_hash')} AS t "
        f"ON t.request_hash = {_HASH.format('o')} LEFT JOIN LATERAL (SELECT CASE o.scope WHEN 'release' THEN (SELECT r.tenant FROM "
        "releases AS r WHERE r.id = o.target) WHEN 'subject' THEN (SELECT s.tenant FROM subjects AS s WHERE s.id = o.target) ELSE "
        "(SELECT r.tenant FROM items AS i JOIN releases AS r ON r.id = i.release_id WHERE i.id = o.target) END AS tenant) AS w ON true",
        "t.actor <> o.ordered_by OR o.canonical_sha256 <> sha256(o.canonical) THEN 'it is not the order that was given'",
        "t.detail ? 'kind' AND t.detail ->> 'kind' <> o.kind THEN 'it is of another kind than the trail says'",
        "(o.tenant, o.scope, o.target::text) IS DISTINCT FROM (o.said ->> 'tenant', o.said ->> 'scope', o.said ->> 'target') "
        "THEN 'its tenant or target is not the one that was signed'",
        "coalesce(t.release, t.subject, t.item) <> o.target::text THEN 'it is about something else than the trail says'",
        "w.tenant <> o.tenant OR EXISTS (SELECT FROM people AS p WHERE p.id = o.ordered_by AND p.tenant <> o.tenant) "
        "THEN 'it was given by somebody of another tenant than what it is about'",
        _OTHER_SIGNATURE.format("o"),
        alone=(
            "t.seq IS NULL THEN 'the trail has no order:given of it'",
            "o.id IS NULL THEN 'order:given, and the order is gone'",
        ),
    ),
    compare(
        "orders carried out",
        (Tag.ORDER_DONE, Tag.ORDER_REFUSED),
        row("order", "o.id", "t.request_hash"),
        "(SELECT * FROM custody_orders WHERE state <> 'given') AS o FULL JOIN told AS t "
        f"ON t.request_hash = {_HASH.format('o')} AND t.event = 'order:' || o.state",
        alone=(
            "t.seq IS NULL THEN 'it is ' || o.state || ', and the trail does not say so'",
            "o.id IS NULL THEN t.event || ', and no order is in that state'",
        ),
    ),
    compare(
        "reviews",
        (Tag.REVIEW_OPENED, Tag.REVIEW_CLOSED),
        row("review of request", "w.request_id", "t.request"),
        "(SELECT w.*, each.event AS expected FROM reviews AS w CROSS JOIN (VALUES ('review:opened'), ('review:closed')) AS each (event) "
        "WHERE each.event = 'review:opened' OR w.closed_at IS NOT NULL) AS w "
        f"FULL JOIN {first('t.request', 't.event')} AS t ON t.request = w.request_id::text AND t.event = w.expected",
        "t.event = 'review:closed' AND (t.actor <> w.closed_by OR t.detail ->> 'conclusion' IS DISTINCT FROM "
        "encode(sha256(convert_to(w.conclusion, 'UTF8')), 'hex')) THEN 'it was closed by somebody else, or with another conclusion'",
        _OTHER_SIGNATURE.format("w"),
        alone=(
            "t.seq IS NULL THEN 'the trail has no ' || w.expected || ' of it'",
            "w.request_id IS NULL THEN t.event || ', and no row says so'",
        ),
    ),
    compare(
        "people",
        (Tag.PERSON_ADDED,),
        row("person", "p.id", "t.subject", _SIGNED),
        f"people AS p FULL JOIN {first('t.subject')} AS t ON t.subject = p.id",
        "t.detail ->> 'ed25519' IS DISTINCT FROM encode(p.ed25519_public, 'hex') "
        "THEN 'their public key is not the one they were added with'",
        "t.detail ->> 'x25519' IS DISTINCT FROM encode(p.x25519_public, 'hex') "
        "THEN 'the key that they receive with is not the one they were added with'",
        "coalesce(t.detail -> 'passkeys', '[]') <> p.passkeys THEN 'their passkeys are not those they were added with'",
        "t.detail ->> 'tenant' IS DISTINCT FROM p.tenant THEN 'their tenant is not the one they were added with'",
        f"(SELECT array_agg(each ORDER BY each) FROM {elements('roles')} AS each) IS DISTINCT FROM "
        "(SELECT array_agg(each ORDER BY each) FROM unnest(p.roles) AS each) THEN 'their roles are not those they were added with'",
        alone=(
            "t.seq IS NULL THEN 'the trail has no person:added of them'",
            "p.id IS NULL THEN 'person:added, and nobody of that id is there'",
        ),
    ),
    compare(
        "people who left",
        (Tag.PERSON_REMOVED,),
        row("person", "p.id", "t.subject", _SIGNED),
        "(SELECT * FROM people WHERE removed_at IS NOT NULL) AS p FULL JOIN told AS t ON t.subject = p.id",
        alone=(
            "t.seq IS NULL THEN 'removed, and the trail does not say so'",
            "p.id IS NULL THEN 'person:removed, and they are still there'",
        ),
    ),
    compare(
        "policies",
        (Tag.POLICY_SET,),
        "coalesce('policy ' || p.name || ' version ' || p.version, 'event ' || t.seq)",
        f"policies AS p FULL JOIN {first(*_POLICY)} AS t ON {_POLICY[0]} = p.tenant AND {_POLICY[1]} = p.name AND {_POLICY[2]} = p.version",
        f"t.detail ->> 'sha256' IS DISTINCT FROM {_HASH.format('p')} OR p.canonical_sha256 <> sha256(p.canonical) "
        f"OR p.body IS DISTINCT FROM {json_of('p.canonical')} THEN 'it is not the policy that was set'",
        "t.actor <> p.set_by THEN 'set by somebody else than the trail says'",
        alone=(
            "t.seq IS NULL THEN 'the trail has no policy:set of it'",
            "p.name IS NULL THEN 'policy:set, and this version is gone'",
        ),
    ),
    compare(
        "subjects",
        (Tag.SUBJECT_ERASED, Tag.RELEASE_SUBMITTED),
        row("subject", "s.id", "t.subject"),
        # Pseudonyms of before are random: those that a release showed before any said how its pseudonyms were made.
        "(WITH before AS (SELECT release FROM told WHERE event = 'release:submitted' AND seq < coalesce((SELECT min(seq) FROM told "
        "WHERE detail ? 'pseudonyms'), 9223372036854775807)) SELECT s.*, EXISTS (SELECT FROM items AS i WHERE i.subject_id = s.id) "
        "AS shown, EXISTS (SELECT FROM items AS i JOIN before AS b ON b.release = i.release_id::text WHERE i.subject_id = s.id) AS older, "
        "substring(sha256(s.salt || sha256(convert_to(s.tenant, 'UTF8')) || convert_to(s.reference, 'UTF8')) FROM 1 FOR 16) AS made "
        "FROM subjects AS s) AS s FULL JOIN (SELECT * FROM told WHERE event = 'subject:erased') AS t "
        "ON t.subject = s.id::text AND s.erased_at IS NOT NULL",
        "s.reference IS NOT NULL AND NOT (s.older AND s.salt IS NULL AND get_byte(uuid_send(s.id), 6) / 16 <> 8) AND uuid_send(s.id) IS "
        "DISTINCT FROM set_byte(set_byte(s.made, 6, get_byte(s.made, 6) % 16 + 128), 8, get_byte(s.made, 8) % 64 + 128) "
        "THEN 'its pseudonym was not made for the reference that it has'",
        "NOT s.shown THEN 'no image shows it'",
        alone=(
            "s.erased_at IS NOT NULL AND t.seq IS NULL THEN 'erased, and the trail does not say so'",
            "s.id IS NULL THEN 'subject:erased, and nobody of that pseudonym was'",
        ),
    ),
    compare(
        "exports",
        (Tag.EXPORT_FINISHED,),
        "coalesce('export ' || x.id, 'event ' || t.seq)",
        "(SELECT id, jsonb_path_query_first(manifest, '$.files[*] ? (@.name == \"SHA256SUMS\").sha256') #>> '{}' AS sums FROM exports "
        f"WHERE state = 'done') AS x FULL JOIN {first(_EXPORT)} AS t ON {_EXPORT} = x.id::text",
        "t.detail ->> 'sums_sha256' IS DISTINCT FROM x.sums THEN 'its files are not those that were exported'",
        alone=(
            "t.seq IS NULL THEN 'it is done, and the trail has no export:finished of it'",
            "x.id IS NULL THEN 'export:finished, and no such export is done'",
        ),
    ),
    compare(
        "reports and exports twice",
        (Tag.RELEASE_REPORTED, Tag.EXPORT_FINISHED),
        "'event ' || t.seq",
        f"(SELECT t.event, max(t.seq) AS seq, count(*) AS times FROM told AS t WHERE t.event = 'release:reported' OR {_EXPORT} IS NOT NULL "
        f"GROUP BY t.event, CASE t.event WHEN 'release:reported' THEN t.release ELSE {_EXPORT} END) AS t",
        "t.times > 1 THEN t.event || ' stands in the trail ' || t.times || ' times for one and the same'",
    ),
    compare(
        "what happens once",
        (
            Tag.RELEASE_SUBMITTED,
            Tag.RELEASE_FINISHED,
            Tag.RELEASE_CANCELLED,
            Tag.ITEM_RELEASED,
            Tag.REQUEST_APPROVED,
            Tag.REQUEST_DENIED,
            Tag.TICKET_ISSUED,
            Tag.RECOVERY_RECOVERED,
            Tag.RECOVERY_FETCHED,
            Tag.ORDER_GIVEN,
            Tag.ORDER_DONE,
            Tag.POLICY_SET,
            Tag.KEY_CREATED,
            Tag.KEY_RETIRED,
        ),
        "'event ' || t.seq",
        "(SELECT event, max(seq) AS seq, count(*) AS times FROM told GROUP BY event, CASE "
        "WHEN event LIKE 'release:%' THEN release WHEN event = 'item:released' THEN item "
        "WHEN event IN ('request:approved', 'request:denied') THEN request || ' ' || actor "
        "WHEN event = 'ticket:issued' THEN request WHEN event LIKE 'order:%' THEN request_hash "
        "WHEN event = 'policy:set' THEN detail ->> 'tenant' || ' ' || (detail ->> 'name') || ' ' || (detail ->> 'version') "
        "WHEN event LIKE 'key:%' THEN detail ->> 'key' ELSE recovery END) AS t",
        "t.times > 1 THEN t.event || ' stands in the trail ' || t.times || ' times for one and the same'",
    ),
)
