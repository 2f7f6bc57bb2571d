-- One role a process, each with what it needs and no more. They cannot log in until the set-up gives them passwords.

DO $$
DECLARE
    service text;
BEGIN
    FOREACH service IN ARRAY ARRAY['refacex_release', 'refacex_custodian', 'refacex_recovery', 'refacex_relay',
                                   'refacex_notary', 'refacex_gateway'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = service) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', service);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL; -- another database of this cluster is being migrated at the same moment
            END;
        END IF;
    END LOOP;
END $$;

REVOKE ALL ON ALL FUNCTIONS IN SCHEMA audit FROM PUBLIC;
GRANT USAGE ON SCHEMA audit TO refacex_release, refacex_custodian, refacex_recovery, refacex_relay, refacex_notary, refacex_gateway;
GRANT EXECUTE ON FUNCTION audit.append(text, jsonb)
    TO refacex_release, refacex_custodian, refacex_recovery, refacex_relay, refacex_notary, refacex_gateway;

-- The notary reads the trail and signs it. The gateway shows it and verifies it.
GRANT SELECT ON audit.events, audit.nodes, audit.tree_heads, audit.grants, audit.tail TO refacex_notary, refacex_gateway;
GRANT INSERT ON audit.nodes, audit.tree_heads TO refacex_notary;

-- Release workers: the items in their hands; they put keys in and cannot take them out.
GRANT SELECT ON releases, items, attempts, exports, export_schedules TO refacex_release;
GRANT UPDATE (state, finished_at) ON releases TO refacex_release;
GRANT UPDATE (state, attempts, fence, claimed_at, claim_expires_at, locator, object_key, sha256, size_bytes, width, height, faces,
              stego_psnr, report, reason, error_code, updated_at) ON items TO refacex_release;
GRANT INSERT ON attempts, sealed_keys, exports TO refacex_release;
GRANT UPDATE (state) ON attempts TO refacex_release;
GRANT SELECT (id, attempt_id, item_id, kind, face, suite, custody_key_id, state, created_at) ON sealed_keys TO refacex_release;
GRANT UPDATE (state, manifest, finished_at) ON exports TO refacex_release;

-- The custodian: reads what it judges by; the only one that reads wrapped keys or makes tickets.
GRANT SELECT ON releases, items, attempts, sealed_keys, recovery_requests, request_faces, approvals, tickets, recoveries
    TO refacex_custodian;
GRANT UPDATE (wrapped, state, suite, custody_key_id) ON sealed_keys TO refacex_custodian;
GRANT UPDATE (state) ON recovery_requests TO refacex_custodian;
GRANT INSERT ON tickets, recoveries TO refacex_custodian;
GRANT UPDATE (spent_at) ON tickets TO refacex_custodian;

-- Recovery workers: the one recovery; no approvals, no wrapped keys.
GRANT SELECT ON releases, items, attempts, request_faces, tickets, recoveries TO refacex_recovery;
GRANT SELECT (id, tenant, release_id, requester, state, expires_at) ON recovery_requests TO refacex_recovery;
GRANT UPDATE (state) ON recovery_requests TO refacex_recovery;
GRANT UPDATE (state, attempts, key_bundle, error_code) ON recoveries TO refacex_recovery;
GRANT INSERT ON recovered_faces TO refacex_recovery;
GRANT SELECT (recovery_id, item_id, face, sha256, fetched_at) ON recovered_faces TO refacex_recovery;

-- The relay, its reconciler and beat.
GRANT SELECT ON releases, items, attempts, exports, export_schedules, tickets TO refacex_relay;
GRANT UPDATE (state, finished_at) ON releases TO refacex_relay;
GRANT UPDATE (state, claimed_at, claim_expires_at, reason, error_code, updated_at) ON items TO refacex_relay;
GRANT UPDATE (state) ON attempts TO refacex_relay;
GRANT SELECT (id, attempt_id, item_id, kind, face, state) ON sealed_keys TO refacex_relay;
GRANT UPDATE (state) ON sealed_keys TO refacex_relay;
GRANT INSERT ON exports TO refacex_relay;
GRANT UPDATE (state, finished_at) ON exports TO refacex_relay;
GRANT SELECT (id, release_id, state, expires_at, created_at) ON recovery_requests TO refacex_relay;
GRANT UPDATE (state) ON recovery_requests TO refacex_relay;
GRANT SELECT (id, ticket_id, state, expires_at, created_at) ON recoveries TO refacex_relay;
GRANT UPDATE (state, key_bundle) ON recoveries TO refacex_relay;
GRANT SELECT (recovery_id, item_id, face) ON recovered_faces TO refacex_relay;
GRANT UPDATE (sealed) ON recovered_faces TO refacex_relay;

-- The gateway: submits, asks, records decisions, hands out once. It never sees a wrapped key or a key bundle.
GRANT SELECT, INSERT ON releases, items, people, recovery_requests, request_faces, approvals, exports, export_schedules
    TO refacex_gateway;
GRANT SELECT ON attempts, tickets, recovered_faces TO refacex_gateway;
GRANT UPDATE (state, finished_at) ON releases TO refacex_gateway;
GRANT UPDATE (state) ON recovery_requests TO refacex_gateway;
GRANT SELECT (id, ticket_id, state, attempts, expires_at, error_code, created_at) ON recoveries TO refacex_gateway;
GRANT UPDATE (state, key_bundle) ON recoveries TO refacex_gateway;
GRANT UPDATE (sealed, fetched_at) ON recovered_faces TO refacex_gateway;
GRANT UPDATE (state, manifest, finished_at) ON exports TO refacex_gateway;
GRANT UPDATE (cron, time_zone, release_filter, enabled) ON export_schedules TO refacex_gateway;
GRANT SELECT (id, attempt_id, item_id, kind, face, suite, custody_key_id, state, created_at) ON sealed_keys TO refacex_gateway;

-- The outbox: who may put what on which queue.
ALTER TABLE outbox ENABLE ROW LEVEL SECURITY;
GRANT INSERT ON outbox TO refacex_release, refacex_custodian, refacex_relay, refacex_gateway;
GRANT SELECT (id, created_at, publish_count) ON outbox TO refacex_release, refacex_custodian, refacex_gateway;
GRANT SELECT, DELETE, UPDATE (published_at, publish_count) ON outbox TO refacex_relay;
CREATE POLICY relay_all ON outbox TO refacex_relay USING (true) WITH CHECK (true);
CREATE POLICY seen_when_written ON outbox FOR SELECT TO refacex_release, refacex_custodian, refacex_gateway USING (true);
CREATE POLICY release_writes ON outbox FOR INSERT TO refacex_release WITH CHECK (broker = 'release');
CREATE POLICY custodian_writes ON outbox FOR INSERT TO refacex_custodian WITH CHECK (queue = 'recovery');
CREATE POLICY gateway_writes ON outbox FOR INSERT TO refacex_gateway WITH CHECK (queue <> 'recovery');
