-- Whom an image shows is vouched for: a pseudonym is a salted hash of its reference (a UUID of version 8), and a key is bound to the
-- pseudonym of whom its item shows. So nobody can exchange two references, nor let an image show somebody else for a while.

-- Keys of before are bound to no subject. What seals a key says itself what it bound it to: a worker of before, that still runs, says nothing
-- and is refused.
ALTER TABLE sealed_keys ADD COLUMN context smallint NOT NULL DEFAULT 1 CHECK (context IN (1, 2));
ALTER TABLE sealed_keys ALTER COLUMN context DROP DEFAULT;

-- The salt keeps a reference from being guessed from its pseudonym, and goes with it. Subjects of before have none, and a random pseudonym.
ALTER TABLE subjects
    ADD COLUMN salt bytea CHECK (octet_length(salt) = 32),
    ADD CONSTRAINT subjects_salt CHECK (salt IS NULL OR reference IS NOT NULL);
CREATE FUNCTION pseudonym_of(tenant text, reference text, salt bytea) RETURNS uuid
LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT encode(set_byte(set_byte(made, 6, get_byte(made, 6) % 16 + 128), 8, get_byte(made, 8) % 64 + 128), 'hex')::uuid FROM (
        SELECT substring(sha256(salt || sha256(convert_to(tenant, 'UTF8')) || convert_to(reference, 'UTF8')) FROM 1 FOR 16) AS made) AS m
$$;
CREATE OR REPLACE FUNCTION guard_subject() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.id IS DISTINCT FROM public.pseudonym_of(NEW.tenant, NEW.reference, NEW.salt) THEN
            RAISE EXCEPTION 'a subject''s id is made from its tenant, reference and salt' USING ERRCODE = '23514';
        END IF;
    ELSIF NEW.id <> OLD.id OR NEW.tenant <> OLD.tenant OR NEW.created_at <> OLD.created_at OR NEW.reference IS NOT NULL THEN
        RAISE EXCEPTION 'a subject can only be erased' USING ERRCODE = '42501';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER guard BEFORE INSERT OR UPDATE ON subjects FOR EACH ROW EXECUTE FUNCTION guard_subject();
GRANT UPDATE (salt) ON subjects TO refacex_custodian;
GRANT SELECT (context) ON sealed_keys TO refacex_release, refacex_relay, refacex_gateway;

-- A release is what the trail says of it from its first moment on: who stole the gateway's role cannot make one that never will be.
CREATE FUNCTION guard_submission() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    said jsonb;
    names text;
    subjects text;
BEGIN
    SELECT convert_from(e.canonical, 'UTF8')::jsonb #> '{fields,detail}' INTO said FROM audit.events AS e
        WHERE audit.release_of(e.canonical) = NEW.id::text AND e.event = 'release:submitted' ORDER BY e.seq LIMIT 1;
    SELECT encode(sha256(NEW.names_salt || string_agg(uuid_send(i.id) || sha256(convert_to(i.relative_name, 'UTF8')), '' ORDER BY i.position)), 'hex'),
           encode(sha256(string_agg(uuid_send(i.id) || coalesce(uuid_send(i.subject_id), decode(repeat('00', 16), 'hex')), '' ORDER BY i.position)), 'hex')
        INTO names, subjects FROM public.items AS i WHERE i.release_id = NEW.id;
    IF (said ->> 'names_sha256', said ->> 'subjects_sha256', said ->> 'tenant') IS DISTINCT FROM (names, subjects, NEW.tenant) THEN
        RAISE EXCEPTION 'a release begins with its items and the event that names them' USING ERRCODE = '23514';
    END IF;
    RETURN NULL;
END $$;
REVOKE ALL ON FUNCTION guard_submission() FROM PUBLIC;
CREATE CONSTRAINT TRIGGER submitted AFTER INSERT ON releases DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION guard_submission();
