-- What people read is vouched for: a release's file names by a salted hash in its `release:submitted`, a request's in what is signed.

-- The salt keeps a name from being guessed from the trail; without it the hash says nothing. Releases of before have none.
ALTER TABLE releases ADD COLUMN names_salt bytea CHECK (octet_length(names_salt) = 32);

-- Requests of before signed ids alone; every new one signs the names as well.
ALTER TABLE recovery_requests ADD COLUMN signs_names boolean NOT NULL DEFAULT false;
CREATE OR REPLACE FUNCTION guard_new_request() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.signature IS NULL OR NEW.state <> 'open' OR NOT NEW.signs_names THEN
        RAISE EXCEPTION 'a recovery request starts open, with its requester''s signature, names included' USING ERRCODE = '23514';
    END IF;
    IF NEW.urgency = 'break_glass' AND EXISTS (
        SELECT FROM public.reviews AS v JOIN public.recovery_requests AS r ON r.id = v.request_id
        WHERE v.closed_at IS NULL AND r.requester = NEW.requester) THEN
        RAISE EXCEPTION 'this requester broke the glass before, and the review of it is still open' USING ERRCODE = '23514';
    END IF;
    RETURN NEW;
END $$;
