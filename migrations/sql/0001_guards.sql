-- What must never be broken, whichever program is at work.

CREATE FUNCTION guard_append_only() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '% is append-only: % refused', TG_TABLE_NAME, TG_OP USING ERRCODE = '42501';
END $$;

CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON approvals EXECUTE FUNCTION guard_append_only();
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON request_faces EXECUTE FUNCTION guard_append_only();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON recovery_requests EXECUTE FUNCTION guard_append_only();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON tickets EXECUTE FUNCTION guard_append_only();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON recoveries EXECUTE FUNCTION guard_append_only();
CREATE TRIGGER kept BEFORE DELETE OR TRUNCATE ON sealed_keys EXECUTE FUNCTION guard_append_only();

CREATE FUNCTION guard_request() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (to_jsonb(NEW) - 'state') <> (to_jsonb(OLD) - 'state') THEN
        RAISE EXCEPTION 'a recovery request cannot be changed: withdraw it and open another' USING ERRCODE = '42501';
    END IF;
    IF NEW.state <> OLD.state AND (OLD.state || ' ' || NEW.state) NOT IN (
        'open approved', 'open denied', 'open withdrawn', 'open expired',
        'approved denied', 'approved withdrawn', 'approved expired', 'approved recovering', 'approved failed',
        'recovering done', 'recovering failed', 'recovering expired') THEN
        RAISE EXCEPTION 'a recovery request cannot go from % to %', OLD.state, NEW.state USING ERRCODE = '23514';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON recovery_requests FOR EACH ROW EXECUTE FUNCTION guard_request();

CREATE FUNCTION guard_approval() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.recovery_requests AS r WHERE r.id = NEW.request_id
                   AND r.state IN ('open', 'approved') AND r.expires_at > clock_timestamp()) THEN
        RAISE EXCEPTION 'the request is not open for decisions' USING ERRCODE = '23514';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON approvals FOR EACH ROW EXECUTE FUNCTION guard_approval();

-- A ticket needs the request's quorum of approvals, none against, and comes unspent with a life within the request's.
CREATE FUNCTION guard_ticket() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'UPDATE' THEN
        IF OLD.spent_at IS NOT NULL OR NEW.spent_at IS NULL OR (to_jsonb(NEW) - 'spent_at') <> (to_jsonb(OLD) - 'spent_at') THEN
            RAISE EXCEPTION 'a ticket is spent once and otherwise never changed' USING ERRCODE = '42501';
        END IF;
        IF OLD.expires_at <= clock_timestamp() THEN
            RAISE EXCEPTION 'the ticket has expired' USING ERRCODE = '23514';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.spent_at IS NOT NULL OR NOT EXISTS (
        SELECT FROM public.recovery_requests AS r WHERE r.id = NEW.request_id AND r.state = 'approved'
        AND NEW.expires_at <= r.expires_at AND r.expires_at > clock_timestamp()
        AND r.quorum <= (SELECT count(*) FROM public.approvals AS a WHERE a.request_id = r.id AND a.decision = 'approve')
        AND NOT EXISTS (SELECT FROM public.approvals AS a WHERE a.request_id = r.id AND a.decision = 'deny')) THEN
        RAISE EXCEPTION 'no ticket without an approved, unexpired request and its quorum' USING ERRCODE = '23514';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON tickets FOR EACH ROW EXECUTE FUNCTION guard_ticket();

CREATE FUNCTION guard_recovery() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        IF NEW.state <> 'bound' OR NOT EXISTS (
            SELECT FROM public.tickets AS t WHERE t.id = NEW.ticket_id AND t.spent_at IS NOT NULL) THEN
            RAISE EXCEPTION 'a recovery starts bound to a spent ticket' USING ERRCODE = '23514';
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.id <> OLD.id OR NEW.ticket_id <> OLD.ticket_id OR NEW.expires_at <> OLD.expires_at OR NEW.created_at <> OLD.created_at
       OR (NEW.key_bundle IS NOT NULL AND NEW.key_bundle IS DISTINCT FROM OLD.key_bundle) THEN
        RAISE EXCEPTION 'a recovery''s ticket, keys and expiry cannot be changed' USING ERRCODE = '42501';
    END IF;
    IF NEW.state <> OLD.state AND (OLD.state || ' ' || NEW.state) NOT IN (
        'bound recovered', 'bound failed', 'bound expired', 'recovered fetched', 'recovered expired') THEN
        RAISE EXCEPTION 'a recovery cannot go from % to %', OLD.state, NEW.state USING ERRCODE = '23514';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT OR UPDATE ON recoveries FOR EACH ROW EXECUTE FUNCTION guard_recovery();

CREATE FUNCTION guard_recovered_face() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.sealed IS NOT NULL AND NEW.sealed IS DISTINCT FROM OLD.sealed
       OR (to_jsonb(NEW) - 'sealed' - 'fetched_at') <> (to_jsonb(OLD) - 'sealed' - 'fetched_at') THEN
        RAISE EXCEPTION 'a recovered face can only be taken away' USING ERRCODE = '42501';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON recovered_faces FOR EACH ROW EXECUTE FUNCTION guard_recovered_face();

CREATE FUNCTION guard_sealed_key() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (to_jsonb(NEW) - 'wrapped' - 'state' - 'suite' - 'custody_key_id')
       <> (to_jsonb(OLD) - 'wrapped' - 'state' - 'suite' - 'custody_key_id') THEN
        RAISE EXCEPTION 'a sealed key stays with its face' USING ERRCODE = '42501';
    END IF;
    IF NEW.state <> OLD.state AND (OLD.state || ' ' || NEW.state) NOT IN (
        'live superseded', 'live shredded', 'superseded shredded') THEN
        RAISE EXCEPTION 'a sealed key cannot go from % to %', OLD.state, NEW.state USING ERRCODE = '23514';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON sealed_keys FOR EACH ROW EXECUTE FUNCTION guard_sealed_key();

-- What was released stays what was released.
CREATE FUNCTION guard_item() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.id <> OLD.id OR NEW.release_id <> OLD.release_id OR NEW.position <> OLD.position THEN
        RAISE EXCEPTION 'an item stays in its release' USING ERRCODE = '42501';
    END IF;
    IF OLD.state = 'done' AND (to_jsonb(NEW) - 'updated_at') <> (to_jsonb(OLD) - 'updated_at') THEN
        RAISE EXCEPTION 'a released item cannot be changed' USING ERRCODE = '42501';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON items FOR EACH ROW EXECUTE FUNCTION guard_item();

CREATE FUNCTION guard_attempt() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF (to_jsonb(NEW) - 'state') <> (to_jsonb(OLD) - 'state') OR (OLD.state <> 'committed' AND NEW.state <> OLD.state) THEN
        RAISE EXCEPTION 'an attempt is published or abandoned once, and otherwise never changed' USING ERRCODE = '42501';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE UPDATE ON attempts FOR EACH ROW EXECUTE FUNCTION guard_attempt();
