-- Custody: bundles of keys are good for minutes; while a recovery waits, the custodian, and nobody else, seals a fresh one. What takes the
-- custodian long it asks itself for again, so that others come first.

ALTER TABLE recoveries ADD COLUMN sealed_at timestamptz;
-- The bundles of before do not say when they were sealed, and workers take them for old: fresh ones are asked for at once.
UPDATE recoveries SET sealed_at = created_at - interval '15 minutes';
ALTER TABLE recoveries ALTER COLUMN sealed_at SET DEFAULT now(), ALTER COLUMN sealed_at SET NOT NULL;
GRANT UPDATE (key_bundle, sealed_at) ON recoveries TO refacex_custodian;
GRANT SELECT (sealed_at) ON recoveries TO refacex_relay, refacex_gateway;

ALTER POLICY custodian_writes ON outbox
    WITH CHECK (queue = 'recovery' OR (queue = 'custody' AND task IN ('custody.carry_out', 'custody.retain')));

CREATE OR REPLACE FUNCTION guard_recovery() RETURNS trigger
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
       OR ((NEW.sealed_at <> OLD.sealed_at OR (NEW.key_bundle IS NOT NULL AND NEW.key_bundle IS DISTINCT FROM OLD.key_bundle))
           AND NOT (session_user = 'refacex_custodian' AND OLD.state = 'bound' AND NEW.state = 'bound')) THEN
        RAISE EXCEPTION 'a recovery''s ticket, keys and expiry cannot be changed' USING ERRCODE = '42501';
    END IF;
    IF NEW.state <> OLD.state AND (OLD.state || ' ' || NEW.state) NOT IN (
        'bound recovered', 'bound failed', 'bound expired', 'recovered fetched', 'recovered expired') THEN
        RAISE EXCEPTION 'a recovery cannot go from % to %', OLD.state, NEW.state USING ERRCODE = '23514';
    END IF;
    RETURN NEW;
END $$;
