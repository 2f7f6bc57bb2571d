-- A pseudonym says whom it stands for: a new one is a salted hash of its reference, a UUID of version 8, so that nobody can exchange two.

-- The salt keeps a reference from being guessed from its pseudonym, and goes with it. Subjects of before have none, and a random pseudonym.
ALTER TABLE subjects
    ADD COLUMN salt bytea CHECK (octet_length(salt) = 32),
    ADD CONSTRAINT subjects_salt CHECK (salt IS NULL OR reference IS NOT NULL);
CREATE OR REPLACE FUNCTION guard_subject() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.salt IS NULL THEN
            RAISE EXCEPTION 'a subject starts with the salt of its pseudonym' USING ERRCODE = '23514';
        END IF;
    ELSIF NEW.id <> OLD.id OR NEW.tenant <> OLD.tenant OR NEW.created_at <> OLD.created_at OR NEW.reference IS NOT NULL THEN
        RAISE EXCEPTION 'a subject can only be erased' USING ERRCODE = '42501';
    END IF;
    RETURN NEW;
END $$;
CREATE OR REPLACE TRIGGER guard BEFORE INSERT OR UPDATE ON subjects FOR EACH ROW EXECUTE FUNCTION guard_subject();
GRANT UPDATE (salt) ON subjects TO refacex_custodian;
