-- Governance and custody: policies, signed requests, signed tickets, reviews, custody orders, subjects, alerts.

-- The policies that were ever set; the newest version of a name holds. The custodian has its own copy outside the database.
CREATE TABLE policies (
    tenant text NOT NULL CHECK (tenant <> ''),
    name text NOT NULL CHECK (name ~ '^[a-z0-9][a-z0-9._-]{0,63}$'),
    version integer NOT NULL CHECK (version >= 1),
    body jsonb NOT NULL,
    canonical bytea NOT NULL,
    canonical_sha256 bytea NOT NULL CHECK (canonical_sha256 = sha256(canonical)),
    set_by text NOT NULL CHECK (set_by <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant, name, version)
);
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON policies EXECUTE FUNCTION guard_append_only();

-- Somebody who left stays, so that what they signed can still be checked; nothing that they sign afterwards counts.
ALTER TABLE people
    ADD COLUMN removed_at timestamptz,
    ADD COLUMN passkeys jsonb NOT NULL DEFAULT '[]'::jsonb;
CREATE FUNCTION guard_person() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (to_jsonb(NEW) - 'removed_at') <> (to_jsonb(OLD) - 'removed_at') OR OLD.removed_at IS NOT NULL THEN
        RAISE EXCEPTION 'a person can only be removed, once: add another with new keys' USING ERRCODE = '42501';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON people FOR EACH ROW EXECUTE FUNCTION guard_person();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON people EXECUTE FUNCTION guard_append_only();

-- Requests carry their requester's own signature. Those of before this revision have none, and open nothing any more.
ALTER TABLE recovery_requests
    ADD COLUMN policy text NOT NULL DEFAULT 'default',
    ADD COLUMN urgency text NOT NULL DEFAULT 'normal' CHECK (urgency IN ('normal', 'break_glass')),
    ADD COLUMN signature bytea CHECK (octet_length(signature) = 64);
CREATE FUNCTION guard_new_request() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.signature IS NULL OR NEW.state <> 'open' THEN
        RAISE EXCEPTION 'a recovery request starts open, with its requester''s signature' USING ERRCODE = '23514';
    END IF;
    IF NEW.urgency = 'break_glass' AND EXISTS (
        SELECT FROM public.reviews AS v JOIN public.recovery_requests AS r ON r.id = v.request_id
        WHERE v.closed_at IS NULL AND r.requester = NEW.requester) THEN
        RAISE EXCEPTION 'this requester broke the glass before, and the review of it is still open' USING ERRCODE = '23514';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard_new BEFORE INSERT ON recovery_requests FOR EACH ROW EXECUTE FUNCTION guard_new_request();

-- How an approval was signed: with an Ed25519 key file, or a passkey. `assertion` is what a passkey signed besides.
ALTER TABLE approvals
    ADD COLUMN method text NOT NULL DEFAULT 'ed25519' CHECK (method IN ('ed25519', 'webauthn')),
    ADD COLUMN assertion jsonb,
    ADD CONSTRAINT approvals_assertion_check CHECK ((method = 'webauthn') = (assertion IS NOT NULL)),
    DROP CONSTRAINT approvals_signature_check,
    ADD CONSTRAINT approvals_signature_check CHECK (octet_length(signature) BETWEEN 64 AND 1024);

-- The custodian signs its tickets.
ALTER TABLE tickets
    ADD COLUMN canonical bytea,
    ADD COLUMN signature bytea CHECK (octet_length(signature) = 64);
CREATE FUNCTION guard_new_ticket() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.canonical IS NULL OR NEW.signature IS NULL THEN
        RAISE EXCEPTION 'a ticket carries the custodian''s signature' USING ERRCODE = '23514';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard_new BEFORE INSERT ON tickets FOR EACH ROW EXECUTE FUNCTION guard_new_ticket();

-- The glass was broken: somebody who had no part in it must look at it, however long that takes.
CREATE TABLE reviews (
    request_id uuid PRIMARY KEY REFERENCES recovery_requests (id),
    opened_at timestamptz NOT NULL DEFAULT now(),
    closed_at timestamptz,
    closed_by text,
    conclusion text,
    signature bytea CHECK (octet_length(signature) = 64),
    CHECK ((closed_at IS NULL) = (closed_by IS NULL) AND (closed_at IS NULL) = (signature IS NULL)),
    CHECK ((closed_at IS NULL) = (conclusion IS NULL) AND conclusion <> '')
);
CREATE FUNCTION guard_review() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.request_id <> OLD.request_id OR NEW.opened_at <> OLD.opened_at OR OLD.closed_at IS NOT NULL THEN
        RAISE EXCEPTION 'a review is closed once and otherwise never changed' USING ERRCODE = '42501';
    END IF;
    IF EXISTS (SELECT FROM public.recovery_requests AS r WHERE r.id = NEW.request_id AND r.requester = NEW.closed_by)
       OR EXISTS (SELECT FROM public.approvals AS a WHERE a.request_id = NEW.request_id AND a.approver = NEW.closed_by) THEN
        RAISE EXCEPTION 'a review is not closed by who asked or decided' USING ERRCODE = '23514';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON reviews FOR EACH ROW EXECUTE FUNCTION guard_review();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON reviews EXECUTE FUNCTION guard_append_only();

-- What key officers order the custodian to do. The custodian checks the signature against its own roster.
CREATE TABLE custody_orders (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('shred', 'hold', 'lift')),
    scope text NOT NULL CHECK (scope IN ('face', 'item', 'release', 'subject')),
    target uuid NOT NULL,
    face integer CHECK (face >= 0),
    reason text NOT NULL CHECK (reason <> ''),
    ordered_by text NOT NULL CHECK (ordered_by <> ''),
    canonical bytea NOT NULL,
    canonical_sha256 bytea NOT NULL CHECK (canonical_sha256 = sha256(canonical)),
    signature bytea NOT NULL CHECK (octet_length(signature) = 64),
    state text NOT NULL DEFAULT 'given' CHECK (state IN ('given', 'done', 'refused')),
    outcome text,
    created_at timestamptz NOT NULL,
    CHECK ((scope = 'face') = (face IS NOT NULL))
);
CREATE INDEX custody_orders_target ON custody_orders (target);
CREATE INDEX custody_orders_given ON custody_orders (created_at) WHERE state = 'given';
CREATE FUNCTION guard_order() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'given' OR NEW.outcome IS NOT NULL THEN
            RAISE EXCEPTION 'an order starts given' USING ERRCODE = '23514';
        END IF;
        RETURN NEW;
    END IF;
    IF OLD.state <> 'given' OR (to_jsonb(NEW) - 'state' - 'outcome') <> (to_jsonb(OLD) - 'state' - 'outcome') THEN
        RAISE EXCEPTION 'an order is carried out or refused once, and otherwise never changed' USING ERRCODE = '42501';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON custody_orders FOR EACH ROW EXECUTE FUNCTION guard_order();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON custody_orders EXECUTE FUNCTION guard_append_only();

-- Whom an item shows: the trail knows the pseudonym alone, and the reference behind it can be erased.
CREATE TABLE subjects (
    id uuid PRIMARY KEY,
    tenant text NOT NULL CHECK (tenant <> ''),
    reference text CHECK (reference <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    erased_at timestamptz,
    CHECK ((reference IS NULL) = (erased_at IS NOT NULL)),
    UNIQUE (tenant, reference)
);
CREATE FUNCTION guard_subject() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.id <> OLD.id OR NEW.tenant <> OLD.tenant OR NEW.created_at <> OLD.created_at OR NEW.reference IS NOT NULL THEN
        RAISE EXCEPTION 'a subject can only be erased' USING ERRCODE = '42501';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON subjects FOR EACH ROW EXECUTE FUNCTION guard_subject();
ALTER TABLE items ADD COLUMN subject_id uuid REFERENCES subjects (id);
CREATE INDEX items_subject ON items (subject_id) WHERE subject_id IS NOT NULL;
-- A release's terms stand: who submitted it and its policy are what approvals are judged by.
CREATE FUNCTION guard_release() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (to_jsonb(NEW) - 'state' - 'finished_at' - 'report_sha256') <> (to_jsonb(OLD) - 'state' - 'finished_at' - 'report_sha256') THEN
        RAISE EXCEPTION 'a release''s terms cannot be changed: cancel it and submit another' USING ERRCODE = '42501';
    END IF;
    IF NEW.finished_at IS DISTINCT FROM OLD.finished_at AND (OLD.finished_at IS NOT NULL OR NEW.finished_at < OLD.created_at
       OR NEW.finished_at > clock_timestamp() + interval '1 minute') THEN
        RAISE EXCEPTION 'a release is finished once, and then' USING ERRCODE = '42501';
    END IF;
    IF NEW.state <> OLD.state AND (OLD.state || ' ' || NEW.state) NOT IN (
        'open running', 'open finished', 'open cancelled', 'running finished', 'running cancelled') THEN
        RAISE EXCEPTION 'a release cannot go from % to %', OLD.state, NEW.state USING ERRCODE = '23514';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON releases FOR EACH ROW EXECUTE FUNCTION guard_release();
-- The risk report's hash, once it lies beside the release.
ALTER TABLE releases ADD COLUMN report_sha256 text CHECK (report_sha256 ~ '^[0-9a-f]{64}$');

-- What somebody must be told at once; the relay delivers it.
CREATE TABLE alerts (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    kind text NOT NULL CHECK (kind <> ''),
    detail jsonb NOT NULL DEFAULT '{}'::jsonb,
    delivered_at timestamptz
);
CREATE FUNCTION guard_alert() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.at := now();
    NEW.delivered_at := NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON alerts FOR EACH ROW EXECUTE FUNCTION guard_alert();
CREATE INDEX alerts_undelivered ON alerts (id) WHERE delivered_at IS NULL;

-- Rotation goes through the keys that another custody key still holds.
CREATE INDEX sealed_keys_custody_key ON sealed_keys (custody_key_id, id) WHERE wrapped IS NOT NULL;

-- Who may what
GRANT SELECT, INSERT ON policies, custody_orders, subjects TO refacex_gateway;
GRANT SELECT ON reviews, alerts TO refacex_gateway;
GRANT UPDATE (closed_at, closed_by, conclusion, signature) ON reviews TO refacex_gateway;
GRANT UPDATE (removed_at) ON people TO refacex_gateway;

GRANT SELECT, UPDATE (reference, erased_at) ON subjects TO refacex_custodian;
GRANT SELECT ON custody_orders TO refacex_custodian;
GRANT UPDATE (state, outcome) ON custody_orders TO refacex_custodian;
GRANT SELECT, INSERT ON reviews TO refacex_custodian;
GRANT UPDATE (state, key_bundle, error_code) ON recoveries TO refacex_custodian;
GRANT SELECT (recovery_id, item_id, face) ON recovered_faces TO refacex_custodian;
GRANT UPDATE (sealed) ON recovered_faces TO refacex_custodian;

GRANT INSERT ON alerts TO refacex_gateway, refacex_custodian, refacex_recovery, refacex_relay, refacex_notary, refacex_release;
GRANT SELECT, UPDATE (delivered_at) ON alerts TO refacex_relay;
GRANT SELECT ON policies, custody_orders TO refacex_relay;
GRANT UPDATE (report_sha256) ON releases TO refacex_release;

-- --- Custody keys -----------------------------------------------------------------------------------------------------------
-- Which custody keys there were. `rotating`: what other keys still hold is being wrapped again under this one. `closed_at`: nothing is
-- sealed to it any more. `retired_at`: the custodian gave up its private half.
CREATE TABLE custody_keys (
    id text PRIMARY KEY CHECK (id <> ''),
    suite text NOT NULL CHECK (suite <> ''),
    created_at timestamptz NOT NULL,
    rotating boolean NOT NULL DEFAULT false,
    rewrapped bigint NOT NULL DEFAULT 0 CHECK (rewrapped >= 0),
    closed_at timestamptz,
    retired_at timestamptz,
    CHECK (retired_at IS NULL OR closed_at IS NOT NULL),
    CHECK (closed_at IS NULL OR NOT rotating)
);
CREATE UNIQUE INDEX custody_keys_one_rotation ON custody_keys (rotating) WHERE rotating;
CREATE FUNCTION guard_custody_key() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.id <> OLD.id OR NEW.suite <> OLD.suite OR NEW.created_at <> OLD.created_at
       OR (OLD.closed_at IS NOT NULL AND NEW.closed_at IS DISTINCT FROM OLD.closed_at)
       OR (OLD.retired_at IS NOT NULL AND NEW.retired_at IS DISTINCT FROM OLD.retired_at) THEN
        RAISE EXCEPTION 'a custody key is closed and retired once, and otherwise only rotated to' USING ERRCODE = '42501';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON custody_keys FOR EACH ROW EXECUTE FUNCTION guard_custody_key();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON custody_keys EXECUTE FUNCTION guard_append_only();
-- What is sealed to a key whose private half is gone is lost. The lock makes who closes a key wait for the seals under way;
-- release workers may not read the table, so the function does it for them.
CREATE FUNCTION guard_new_sealed_key() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    closed timestamptz;
BEGIN
    SELECT k.closed_at INTO closed FROM public.custody_keys AS k WHERE k.id = NEW.custody_key_id FOR KEY SHARE;
    IF closed IS NOT NULL THEN
        RAISE EXCEPTION 'custody key % is retired: give the release worker the custodian''s new public key', NEW.custody_key_id
            USING ERRCODE = 'RX001'; -- a code of our own: workers/releases/keys.py knows it
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard_new BEFORE INSERT ON sealed_keys FOR EACH ROW EXECUTE FUNCTION guard_new_sealed_key();
GRANT SELECT, INSERT, UPDATE (rotating, rewrapped, closed_at, retired_at) ON custody_keys TO refacex_custodian;

-- Shredding ends the recoveries of an item's faces.
CREATE INDEX request_faces_item ON request_faces (item_id);

-- ---- Releases: the risk report is written once, when nothing is left to do.
CREATE FUNCTION guard_report() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF OLD.report_sha256 IS NOT NULL OR NEW.state NOT IN ('finished', 'cancelled') THEN
        RAISE EXCEPTION 'a release is reported once, after its end' USING ERRCODE = '42501';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard_report BEFORE UPDATE ON releases FOR EACH ROW
    WHEN (NEW.report_sha256 IS DISTINCT FROM OLD.report_sha256) EXECUTE FUNCTION guard_report();
CREATE INDEX releases_unreported ON releases (created_at) WHERE report_sha256 IS NULL;

-- The trail's own indexes: a release's events, and the events of one kind, are found without reading the log.
CREATE FUNCTION audit.release_of(canonical bytea) RETURNS text
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT convert_from(canonical, 'UTF8')::jsonb #>> '{fields,release}'
$$;
REVOKE ALL ON FUNCTION audit.release_of(bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION audit.release_of(bytea) TO refacex_gateway;
CREATE INDEX events_release ON audit.events (audit.release_of(canonical), seq);
CREATE INDEX events_kind ON audit.events (event, seq);

-- Infinity is a time that no program of ours can read: one such row would stop whoever meets it.
ALTER TABLE recovery_requests ADD CHECK (isfinite(created_at) AND isfinite(expires_at));
ALTER TABLE custody_orders ADD CHECK (isfinite(created_at));
ALTER TABLE releases ADD CHECK (isfinite(created_at) AND (finished_at IS NULL OR isfinite(finished_at)));
ALTER TABLE recoveries ADD CHECK (isfinite(expires_at));
ALTER TABLE tickets ADD CHECK (isfinite(expires_at) AND (spent_at IS NULL OR isfinite(spent_at)));
ALTER TABLE reviews ADD CHECK (isfinite(opened_at) AND (closed_at IS NULL OR isfinite(closed_at)));
ALTER TABLE people ADD CHECK (removed_at IS NULL OR isfinite(removed_at));
ALTER TABLE items ADD CHECK (isfinite(updated_at) AND (claim_expires_at IS NULL OR isfinite(claim_expires_at))
    AND (claimed_at IS NULL OR isfinite(claimed_at)));
ALTER TABLE exports ADD CHECK (finished_at IS NULL OR isfinite(finished_at));

-- A key is its own attempt's item's: shredding goes by the item.
ALTER TABLE attempts ADD UNIQUE (id, item_id);
ALTER TABLE sealed_keys ADD FOREIGN KEY (attempt_id, item_id) REFERENCES attempts (id, item_id);
