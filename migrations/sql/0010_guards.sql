-- What a stolen role may not write: messages that are none of its own, times that no program of ours can read, and items and keys of what was
-- made long ago.

-- ---- Times. PostgreSQL knows infinity and the year 20000, and Python does not: one such row would stop whoever meets it.
CREATE FUNCTION readable_time(moment timestamptz) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT moment IS NULL OR (moment >= '2000-01-01 00:00:00+00' AND moment < '9999-01-01 00:00:00+00')
$$;

ALTER TABLE releases ADD CONSTRAINT releases_times CHECK (readable_time(created_at) AND readable_time(finished_at));
ALTER TABLE items ADD CONSTRAINT items_times
    CHECK (readable_time(claimed_at) AND readable_time(claim_expires_at) AND readable_time(updated_at));
ALTER TABLE attempts ADD CONSTRAINT attempts_times CHECK (readable_time(created_at));
ALTER TABLE sealed_keys ADD CONSTRAINT sealed_keys_times CHECK (readable_time(created_at));
DELETE FROM outbox WHERE NOT (readable_time(created_at) AND readable_time(published_at));
ALTER TABLE outbox ADD CONSTRAINT outbox_times CHECK (readable_time(created_at) AND readable_time(published_at));
ALTER TABLE people ADD CONSTRAINT people_times CHECK (readable_time(created_at) AND readable_time(removed_at));
ALTER TABLE policies ADD CONSTRAINT policies_times CHECK (readable_time(created_at));
ALTER TABLE subjects ADD CONSTRAINT subjects_times CHECK (readable_time(created_at) AND readable_time(erased_at));
ALTER TABLE recovery_requests ADD CONSTRAINT recovery_requests_times CHECK (readable_time(created_at) AND readable_time(expires_at));
ALTER TABLE approvals ADD CONSTRAINT approvals_times CHECK (readable_time(created_at));
ALTER TABLE reviews ADD CONSTRAINT reviews_times CHECK (readable_time(opened_at) AND readable_time(closed_at));
ALTER TABLE tickets ADD CONSTRAINT tickets_times
    CHECK (readable_time(created_at) AND readable_time(expires_at) AND readable_time(spent_at));
ALTER TABLE recoveries ADD CONSTRAINT recoveries_times
    CHECK (readable_time(created_at) AND readable_time(expires_at) AND readable_time(sealed_at));
ALTER TABLE recovered_faces ADD CONSTRAINT recovered_faces_times CHECK (readable_time(fetched_at));
ALTER TABLE custody_orders ADD CONSTRAINT custody_orders_times CHECK (readable_time(created_at));
ALTER TABLE custody_keys ADD CONSTRAINT custody_keys_times
    CHECK (readable_time(created_at) AND readable_time(closed_at) AND readable_time(retired_at));
ALTER TABLE alerts ADD CONSTRAINT alerts_times CHECK (readable_time(at) AND readable_time(delivered_at));
ALTER TABLE exports ADD CONSTRAINT exports_times
    CHECK (readable_time(window_start) AND readable_time(created_at) AND readable_time(finished_at));
ALTER TABLE audit.tree_heads ADD CONSTRAINT tree_heads_times CHECK (public.readable_time(at) AND public.readable_time(anchored_at));

-- When a row was made is the database's word. What people sign says it itself (requests, orders), and so does the register of custody keys.
CREATE FUNCTION guard_created() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.created_at := now();
    RETURN NEW;
END $$;
CREATE TRIGGER created BEFORE INSERT ON releases FOR EACH ROW EXECUTE FUNCTION guard_created();
CREATE TRIGGER created BEFORE INSERT ON attempts FOR EACH ROW EXECUTE FUNCTION guard_created();
CREATE TRIGGER created BEFORE INSERT ON sealed_keys FOR EACH ROW EXECUTE FUNCTION guard_created();
CREATE TRIGGER created BEFORE INSERT ON people FOR EACH ROW EXECUTE FUNCTION guard_created();
CREATE TRIGGER created BEFORE INSERT ON policies FOR EACH ROW EXECUTE FUNCTION guard_created();
CREATE TRIGGER created BEFORE INSERT ON subjects FOR EACH ROW EXECUTE FUNCTION guard_created();
CREATE TRIGGER created BEFORE INSERT ON approvals FOR EACH ROW EXECUTE FUNCTION guard_created();
CREATE TRIGGER created BEFORE INSERT ON tickets FOR EACH ROW EXECUTE FUNCTION guard_created();
CREATE TRIGGER created BEFORE INSERT ON recoveries FOR EACH ROW EXECUTE FUNCTION guard_created();
CREATE TRIGGER created BEFORE INSERT ON exports FOR EACH ROW EXECUTE FUNCTION guard_created();

-- ---- Messages: a task on its own queue, with ids alone (`schemas.messages`). What else stands there nobody of ours wrote.
CREATE FUNCTION is_message(broker text, queue text, task text, args jsonb) RETURNS boolean
LANGUAGE sql IMMUTABLE PARALLEL SAFE SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE
        WHEN (task, queue, broker) = ('releases.anonymise', 'release', 'release')
        THEN args::text ~ '^\[\["[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"(, "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")*\]\]$'
        WHEN (task, queue, broker) IN (
            ('exports.run', 'exports', 'release'), ('releases.report', 'exports', 'release'),
            ('custody.open', 'custody', 'privileged'), ('custody.carry_out', 'custody', 'privileged'),
            ('custody.retain', 'custody', 'privileged'), ('recoveries.recover', 'recovery', 'privileged'))
        THEN args::text ~ '^\["[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"\]$'
        ELSE false
    END
$$;
DELETE FROM outbox WHERE NOT is_message(broker, queue, task, args);
ALTER TABLE outbox ADD CONSTRAINT outbox_message CHECK (is_message(broker, queue, task, args));
-- Whoever asks again goes by when somebody asked: the database says so.
CREATE FUNCTION guard_message() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.created_at := now();
    NEW.published_at := NULL;
    NEW.publish_count := 0;
    RETURN NEW;
END $$;
CREATE TRIGGER guard BEFORE INSERT ON outbox FOR EACH ROW EXECUTE FUNCTION guard_message();
ALTER POLICY release_writes ON outbox WITH CHECK (task IN ('exports.run', 'releases.report'));
ALTER POLICY custodian_writes ON outbox WITH CHECK (task IN ('recoveries.recover', 'custody.carry_out', 'custody.retain'));
ALTER POLICY gateway_writes ON outbox
    WITH CHECK (task IN ('releases.anonymise', 'exports.run', 'custody.open', 'custody.carry_out', 'custody.retain'));

-- ---- Items come with their release, and keys with their attempt: in one transaction, savepoints or not, and never afterwards.
-- `made_in`: the transaction. Not `xmin`, which becomes that of whoever updates the row. The time besides, for a dump that is loaded into
-- another cluster counts its transactions from the beginning. What was made before this revision has none, and takes nothing more.
ALTER TABLE releases ADD COLUMN made_in bigint;
ALTER TABLE attempts ADD COLUMN made_in bigint;
CREATE FUNCTION guard_new_release() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.state <> 'open' OR NEW.finished_at IS NOT NULL OR NEW.report_sha256 IS NOT NULL THEN
        RAISE EXCEPTION 'a release starts open' USING ERRCODE = '23514';
    END IF;
    NEW.made_in := pg_current_xact_id()::text::bigint;
    RETURN NEW;
END $$;
CREATE TRIGGER guard_new BEFORE INSERT ON releases FOR EACH ROW EXECUTE FUNCTION guard_new_release();
-- Nor after the event that names them: whoever has its guard look early could add one behind it.
CREATE FUNCTION guard_new_item() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.releases AS r WHERE r.id = NEW.release_id
                   AND r.made_in = pg_current_xact_id()::text::bigint AND r.created_at = now())
       OR EXISTS (SELECT FROM audit.events AS e
                  WHERE audit.release_of(e.canonical) = NEW.release_id::text AND e.event = 'release:submitted') THEN
        RAISE EXCEPTION 'items come with their release, and none is added to it later' USING ERRCODE = '23514';
    END IF;
    IF (NEW.state, NEW.fence, NEW.attempts) <> ('pending', 0, 0) THEN
        RAISE EXCEPTION 'an item starts where nobody has worked on it' USING ERRCODE = '23514';
    END IF;
    NEW.updated_at := least(NEW.updated_at, clock_timestamp());
    RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION guard_new_item() FROM PUBLIC;
CREATE TRIGGER guard_new BEFORE INSERT ON items FOR EACH ROW EXECUTE FUNCTION guard_new_item();

-- What has ended stays so, a claim lasts a day at the most, and its fence goes up step by step: nobody takes an image for ever.
CREATE OR REPLACE FUNCTION guard_item() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.id <> OLD.id OR NEW.release_id <> OLD.release_id OR NEW.position <> OLD.position THEN
        RAISE EXCEPTION 'an item stays in its release' USING ERRCODE = '42501';
    END IF;
    IF OLD.state = 'done' AND (to_jsonb(NEW) - 'updated_at') <> (to_jsonb(OLD) - 'updated_at') THEN
        RAISE EXCEPTION 'a released item cannot be changed' USING ERRCODE = '42501';
    END IF;
    IF OLD.state IN ('held', 'failed', 'quarantined') AND NEW.state <> OLD.state THEN
        RAISE EXCEPTION 'an item that has ended is not worked on again' USING ERRCODE = '42501';
    END IF;
    IF NEW.fence NOT BETWEEN OLD.fence AND OLD.fence + 2 OR NEW.attempts > OLD.attempts + 1
       OR NEW.claim_expires_at > clock_timestamp() + interval '1 day' THEN
        RAISE EXCEPTION 'an item is claimed for a day at the most, and its fence and attempts go up step by step' USING ERRCODE = '23514';
    END IF;
    NEW.updated_at := least(NEW.updated_at, clock_timestamp()); -- whoever waits for it goes by that
    RETURN NEW;
END $$;
-- Nor does anybody end a release before its images have ended: nothing would be worked on any more, and nothing shredded.
CREATE FUNCTION guard_finish() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM public.items AS i WHERE i.release_id = NEW.id AND i.state IN ('pending', 'claimed', 'committed')) THEN
        RAISE EXCEPTION 'a release is finished when all its images have ended' USING ERRCODE = '23514';
    END IF;
    RETURN NEW;
END $$;
REVOKE ALL ON FUNCTION guard_finish() FROM PUBLIC;
CREATE TRIGGER guard_finish BEFORE UPDATE ON releases FOR EACH ROW
    WHEN (NEW.state = 'finished' AND OLD.state <> 'finished') EXECUTE FUNCTION guard_finish();

-- An attempt is of an item in hand: nobody tries again what has ended.
CREATE FUNCTION guard_new_attempt() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM public.items AS i JOIN public.releases AS r ON r.id = i.release_id WHERE i.id = NEW.item_id
                   AND i.state = 'committed' AND i.fence = NEW.fence AND r.state IN ('open', 'running')) THEN
        RAISE EXCEPTION 'an attempt is of an item that is being worked on, under its fence' USING ERRCODE = '23514';
    END IF;
    NEW.made_in := pg_current_xact_id()::text::bigint;
    RETURN NEW;
END $$;
CREATE TRIGGER guard_new BEFORE INSERT ON attempts FOR EACH ROW EXECUTE FUNCTION guard_new_attempt();
-- One of them waits to be published; and no key is bound to less than others are.
CREATE UNIQUE INDEX attempts_one_committed ON attempts (item_id) WHERE state = 'committed';
CREATE FUNCTION guard_late_key() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NEW.context <> 2 THEN
        RAISE EXCEPTION 'a new key is bound to whom its image shows' USING ERRCODE = '23514';
    END IF;
    IF NOT EXISTS (SELECT FROM public.attempts AS a WHERE a.id = NEW.attempt_id
                   AND a.made_in = pg_current_xact_id()::text::bigint AND a.created_at = now()) THEN
        RAISE EXCEPTION 'keys come with their attempt, and none is added to it later' USING ERRCODE = '23514';
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER guard_late BEFORE INSERT ON sealed_keys FOR EACH ROW EXECUTE FUNCTION guard_late_key();
