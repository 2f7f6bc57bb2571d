-- Fills an empty trail as `audit.append` would have: the same bytes, leaves and order, some hundred times as fast, together with the
-- rows that the events tell of. Placeholders: {releases} whole releases of {items} items, and a last one of {rest}.
-- Only the database's owner can do this, and only before the first head is anchored: afterwards it would not pass verification.

CREATE TEMP TABLE made AS
SELECT r, i, md5('release ' || r)::uuid AS release, md5('item ' || r || ' ' || i)::uuid AS item,
    md5('attempt ' || r || ' ' || i)::uuid AS attempt, encode(sha256(convert_to('file ' || r || ' ' || i, 'UTF8')), 'hex') AS file,
    r::bigint * ({items} * 3 + 2) AS first
FROM generate_series(0, {releases}) AS r, LATERAL generate_series(0, CASE WHEN r < {releases} THEN {items} ELSE {rest} END - 1) AS i;

ALTER TABLE releases DISABLE TRIGGER USER;
ALTER TABLE items DISABLE TRIGGER USER;
ALTER TABLE attempts DISABLE TRIGGER USER;

INSERT INTO releases (id, tenant, name, profile, format, donor_policy, policy, state, submitted_by, finished_at)
SELECT DISTINCT release, 'bench', 'bench', 'robust', 'png', 'random', '{{"name": "default"}}'::jsonb, 'finished', 'sam', now() FROM made;

INSERT INTO items (id, release_id, position, source_uri, relative_name, state, attempts, fence, locator, object_key, sha256, size_bytes, faces)
SELECT item, release, i, 'file:///x', 'x', 'done', 1, 1, '\x00', item || '/' || attempt || '.png', file, 1000, 1 FROM made;

INSERT INTO attempts (id, item_id, fence, state, object_key, sha256, size_bytes, locator, model_version)
SELECT attempt, item, 1, 'published', item || '/' || attempt || '.png', file, 1000, '\x00', 'bench-1' FROM made;

ALTER TABLE releases ENABLE TRIGGER USER;
ALTER TABLE items ENABLE TRIGGER USER;
ALTER TABLE attempts ENABLE TRIGGER USER;

CREATE TEMP TABLE told AS
SELECT first + 1 + 3 * i + step AS seq, 'refacex_release' AS role,
    (ARRAY['item:claimed', 'item:committed', 'item:released'])[step + 1] AS event,
    format(
        (ARRAY[
            '{{"actor":"release-worker","detail":{{"attempt":1,"fence":1}},"item":"%3$s","release":"%4$s"}}',
            '{{"actor":"release-worker","detail":{{"attempt":"%1$s","keys":0,"sha256":"%2$s"}},"item":"%3$s","model_version":"bench-1","release":"%4$s"}}',
            '{{"actor":"release-worker","detail":{{"attempt":"%1$s","bytes":1000,"sha256":"%2$s"}},"item":"%3$s","model_version":"bench-1","release":"%4$s"}}'
        ])[step + 1], attempt, file, item, release) AS fields
FROM made, generate_series(0, 2) AS step
UNION ALL
SELECT first, 'refacex_gateway', 'release:submitted', format(
    '{{"actor":"sam","detail":{{"donors":"random","format":"png","items":%s,"policy":"default","profile":"robust"}},"release":"%s"}}',
    count(*), release)
FROM made GROUP BY first, release
UNION ALL
SELECT first + 1 + 3 * count(*), 'refacex_release', 'release:finished', format(
    '{{"actor":"release-worker","detail":{{"done":%s}},"release":"%s"}}', count(*), release)
FROM made GROUP BY first, release;

INSERT INTO audit.events (seq, at, role, event, canonical, leaf)
SELECT seq, at, role, event, canonical, sha256('\x00'::bytea || canonical) FROM (
    SELECT seq, at, role, event, convert_to(format('{{"at":"%s","event":"%s","fields":%s,"role":"%s","seq":%s,"v":1}}',
        to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), event, fields, role, seq), 'UTF8') AS canonical
    FROM (SELECT *, timestamptz '2026-01-01' + seq * interval '10 ms' AS at FROM told) AS t
    ORDER BY seq) AS e;

UPDATE audit.tail SET size = (SELECT count(*) FROM audit.events);
DROP TABLE made, told;
ANALYZE;
