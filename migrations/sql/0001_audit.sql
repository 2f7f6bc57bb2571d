CREATE SCHEMA audit;

CREATE TABLE audit.events (
    seq bigint PRIMARY KEY CHECK (seq >= 0),
    at timestamptz NOT NULL,
    role text NOT NULL,
    event text NOT NULL,
    canonical bytea NOT NULL,
    leaf bytea NOT NULL CHECK (leaf = sha256('\x00'::bytea || canonical))
);

CREATE TABLE audit.nodes (
    level smallint NOT NULL CHECK (level BETWEEN 1 AND 62),
    position bigint NOT NULL CHECK (position >= 0),
    hash bytea NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (level, position)
);

CREATE TABLE audit.tree_heads (
    size bigint PRIMARY KEY CHECK (size >= 0),
    root bytea NOT NULL CHECK (octet_length(root) = 32),
    at timestamptz NOT NULL,
    body bytea NOT NULL,
    signature bytea NOT NULL CHECK (octet_length(signature) = 64),
    key_id text NOT NULL,
    anchored_at timestamptz NOT NULL,
    anchor_object text NOT NULL
);

CREATE TABLE audit.grants (
    event text NOT NULL,
    role text NOT NULL,
    PRIMARY KEY (event, role)
);

-- One row whose lock puts the appends in order. A table and not an advisory lock: any role may take an advisory lock and
-- keep it, but only the owner can lock this row.
CREATE TABLE audit.tail (
    one boolean PRIMARY KEY DEFAULT true CONSTRAINT tail_one_check CHECK (one),
    size bigint NOT NULL CHECK (size >= 0)
) WITH (fillfactor = 50);
INSERT INTO audit.tail (size) VALUES (0);

-- RFC 8785 for the JSON that the trail allows: ASCII keys (so that byte order is UTF-16 order), strings, true, false, null and
-- integers of at most 2^53 - 1. `to_json(text)` escapes just as RFC 8785 does.
CREATE FUNCTION audit.canonical(value jsonb) RETURNS text
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    result text;
BEGIN
    CASE jsonb_typeof(value)
    WHEN 'object' THEN
        IF EXISTS (SELECT FROM jsonb_object_keys(value) AS k WHERE k !~ '^[A-Za-z0-9_.:-]+$') THEN
            RAISE EXCEPTION 'audit: a field''s name may hold ASCII letters, digits and _ . : - only' USING ERRCODE = '22023';
        END IF;
        SELECT '{' || coalesce(string_agg(to_json(e.key)::text || ':' || audit.canonical(e.value), ',' ORDER BY e.key COLLATE "C"), '')
            || '}' INTO result FROM jsonb_each(value) AS e;
    WHEN 'array' THEN
        SELECT '[' || coalesce(string_agg(audit.canonical(e.value), ',' ORDER BY e.ordinality), '') || ']'
            INTO result FROM jsonb_array_elements(value) WITH ORDINALITY AS e;
    WHEN 'string' THEN
        result := to_json(value #>> '{}')::text;
    WHEN 'number' THEN
        IF value::numeric <> trunc(value::numeric) OR abs(value::numeric) > 9007199254740991 THEN
            RAISE EXCEPTION 'audit: numbers must be integers of at most 2^53 - 1: write others as strings' USING ERRCODE = '22023';
        END IF;
        result := trunc(value::numeric)::text;
    ELSE
        result := value::text;
    END CASE;
    RETURN result;
END $$;

-- Appends one event and gives its sequence number. The lock is the last thing it takes, and the caller's transaction holds it
-- until its end: so append last in a transaction, and keep what follows short.
CREATE FUNCTION audit.append(event text, fields jsonb) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    who text := session_user;
    owner name := (SELECT pg_get_userbyid(nspowner) FROM pg_namespace WHERE nspname = 'audit');
    checked jsonb;
    number bigint;
    moment timestamptz;
    bytes bytea;
BEGIN
    IF NOT EXISTS (SELECT FROM audit.grants AS g WHERE g.event = append.event
                   AND (g.role = who OR (g.role = '@owner' AND who = owner))) THEN
        RAISE EXCEPTION 'audit: the role % may not write the event %', who, event USING ERRCODE = '42501';
    END IF;
    IF fields IS NULL OR jsonb_typeof(fields) <> 'object' OR octet_length(fields::text) > 16384 THEN
        RAISE EXCEPTION 'audit: the fields must be a JSON object of at most 16 KiB' USING ERRCODE = '22023';
    END IF;
    IF coalesce(fields ->> 'actor', '') = '' THEN
        RAISE EXCEPTION 'audit: an event needs an actor' USING ERRCODE = '22023';
    END IF;
    checked := audit.canonical(fields)::jsonb;
    UPDATE audit.tail SET size = size + 1 RETURNING size - 1 INTO STRICT number;
    moment := clock_timestamp();
    bytes := convert_to(audit.canonical(jsonb_build_object(
        'v', 1, 'seq', number, 'at', to_char(moment AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        'role', who, 'event', event, 'fields', checked)), 'UTF8');
    INSERT INTO audit.events (seq, at, role, event, canonical, leaf)
    VALUES (number, moment, who, event, bytes, sha256('\x00'::bytea || bytes));
    RETURN number;
END $$;

CREATE FUNCTION audit.refuse() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '%.% is append-only: % refused', TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_OP USING ERRCODE = '42501';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.events EXECUTE FUNCTION audit.refuse();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.nodes EXECUTE FUNCTION audit.refuse();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit.tree_heads EXECUTE FUNCTION audit.refuse();
-- Also when somebody sets session_replication_role.
ALTER TABLE audit.events ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE audit.nodes ENABLE ALWAYS TRIGGER append_only;
ALTER TABLE audit.tree_heads ENABLE ALWAYS TRIGGER append_only;
