CREATE TABLE releases (
    id uuid PRIMARY KEY,
    tenant text NOT NULL CHECK (tenant <> ''),
    name text NOT NULL CHECK (name <> ''),
    profile text NOT NULL CHECK (profile IN ('robust', 'archive')),
    format text NOT NULL CHECK (format IN ('png', 'jpeg', 'webp')),
    quality integer CHECK (quality BETWEEN 1 AND 100),
    donor_policy text NOT NULL CHECK (donor_policy IN ('random', 'stable', 'matched')),
    policy jsonb NOT NULL DEFAULT '{}'::jsonb CHECK (jsonb_typeof(policy) = 'object'),
    on_no_face text NOT NULL DEFAULT 'hold' CHECK (on_no_face IN ('hold', 'release')),
    state text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'running', 'finished', 'cancelled')),
    submitted_by text NOT NULL CHECK (submitted_by <> ''),
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);

CREATE TABLE items (
    id uuid PRIMARY KEY,
    release_id uuid NOT NULL REFERENCES releases (id),
    position integer NOT NULL,
    source_uri text NOT NULL,
    relative_name text NOT NULL,
    state text NOT NULL DEFAULT 'pending'
        CHECK (state IN ('pending', 'claimed', 'committed', 'done', 'held', 'failed', 'quarantined')),
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    fence bigint NOT NULL DEFAULT 0,
    claimed_at timestamptz,
    claim_expires_at timestamptz,
    locator bytea,
    object_key text,
    sha256 text,
    size_bytes bigint,
    width integer,
    height integer,
    faces integer,
    stego_psnr double precision,
    report jsonb,
    reason text,
    error_code text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (release_id, position),
    CHECK (state <> 'done' OR (object_key IS NOT NULL AND sha256 IS NOT NULL AND locator IS NOT NULL AND faces IS NOT NULL))
);
CREATE INDEX items_unfinished ON items (state, claim_expires_at) WHERE state IN ('pending', 'claimed', 'committed');

CREATE TABLE attempts (
    id uuid PRIMARY KEY,
    item_id uuid NOT NULL REFERENCES items (id),
    fence bigint NOT NULL,
    state text NOT NULL DEFAULT 'committed' CHECK (state IN ('committed', 'published', 'abandoned')),
    object_key text NOT NULL,
    sha256 text NOT NULL,
    size_bytes bigint NOT NULL,
    locator bytea NOT NULL,
    model_version text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (item_id, fence)
);
-- Two workers may both finish an item; only one of them publishes it.
CREATE UNIQUE INDEX attempts_one_published ON attempts (item_id) WHERE state = 'published';

CREATE TABLE sealed_keys (
    id uuid PRIMARY KEY,
    attempt_id uuid NOT NULL REFERENCES attempts (id),
    item_id uuid NOT NULL REFERENCES items (id),
    kind text NOT NULL CHECK (kind IN ('layout', 'face')),
    face integer NOT NULL,
    suite text NOT NULL,
    custody_key_id text NOT NULL,
    wrapped bytea,
    state text NOT NULL DEFAULT 'live' CHECK (state IN ('live', 'superseded', 'shredded')),
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (attempt_id, kind, face),
    CHECK ((kind = 'layout') = (face = -1) AND face >= -1),
    CHECK ((state = 'shredded') = (wrapped IS NULL))
);
CREATE INDEX sealed_keys_item ON sealed_keys (item_id);

CREATE TABLE outbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    broker text NOT NULL CHECK (broker IN ('release', 'privileged')),
    queue text NOT NULL,
    task text NOT NULL,
    args jsonb NOT NULL CHECK (jsonb_typeof(args) = 'array'),
    created_at timestamptz NOT NULL DEFAULT now(),
    published_at timestamptz,
    publish_count integer NOT NULL DEFAULT 0,
    CHECK ((broker = 'privileged') = (queue IN ('custody', 'recovery')))
);
CREATE INDEX outbox_unpublished ON outbox (id) WHERE published_at IS NULL;

CREATE TABLE people (
    id text PRIMARY KEY CHECK (id ~ '^[a-z0-9][a-z0-9._@-]{0,63}$'),
    tenant text NOT NULL,
    roles text[] NOT NULL,
    ed25519_public bytea NOT NULL UNIQUE CHECK (octet_length(ed25519_public) = 32),
    x25519_public bytea NOT NULL UNIQUE CHECK (octet_length(x25519_public) = 32),
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE recovery_requests (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    release_id uuid NOT NULL REFERENCES releases (id),
    requester text NOT NULL CHECK (requester <> ''),
    reason text NOT NULL CHECK (reason <> ''),
    legal_basis text NOT NULL CHECK (legal_basis <> ''),
    case_reference text NOT NULL CHECK (case_reference <> ''),
    purpose text NOT NULL CHECK (purpose <> ''),
    recipient_public bytea NOT NULL CHECK (octet_length(recipient_public) = 32),
    quorum integer NOT NULL CHECK (quorum >= 1),
    state text NOT NULL DEFAULT 'open' CHECK (
        state IN ('open', 'approved', 'denied', 'withdrawn', 'expired', 'recovering', 'done', 'failed')),
    canonical bytea NOT NULL,
    canonical_sha256 bytea NOT NULL CHECK (canonical_sha256 = sha256(canonical)),
    expires_at timestamptz NOT NULL,
    created_at timestamptz NOT NULL,
    UNIQUE (id, requester),
    CHECK (expires_at > created_at)
);

CREATE TABLE request_faces (
    request_id uuid NOT NULL REFERENCES recovery_requests (id),
    item_id uuid NOT NULL REFERENCES items (id),
    face integer NOT NULL CHECK (face >= 0),
    PRIMARY KEY (request_id, item_id, face)
);

CREATE TABLE approvals (
    request_id uuid NOT NULL,
    approver text NOT NULL,
    requester text NOT NULL,
    decision text NOT NULL CHECK (decision IN ('approve', 'deny')),
    signature bytea NOT NULL CHECK (octet_length(signature) = 64),
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (request_id, approver),
    FOREIGN KEY (request_id, requester) REFERENCES recovery_requests (id, requester),
    CONSTRAINT approvals_not_by_requester_check CHECK (approver <> requester)
);

CREATE TABLE tickets (
    id uuid PRIMARY KEY,
    request_id uuid NOT NULL UNIQUE REFERENCES recovery_requests (id),
    expires_at timestamptz NOT NULL,
    spent_at timestamptz,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE recoveries (
    id uuid PRIMARY KEY,
    ticket_id uuid NOT NULL UNIQUE REFERENCES tickets (id),
    state text NOT NULL DEFAULT 'bound' CHECK (state IN ('bound', 'recovered', 'fetched', 'failed', 'expired')),
    attempts integer NOT NULL DEFAULT 0 CHECK (attempts >= 0),
    key_bundle bytea,
    expires_at timestamptz NOT NULL,
    error_code text,
    created_at timestamptz NOT NULL DEFAULT now(),
    CHECK ((state = 'bound') = (key_bundle IS NOT NULL))
);

CREATE TABLE recovered_faces (
    recovery_id uuid NOT NULL REFERENCES recoveries (id),
    item_id uuid NOT NULL REFERENCES items (id),
    face integer NOT NULL,
    sealed bytea,
    sha256 text NOT NULL,
    fetched_at timestamptz,
    PRIMARY KEY (recovery_id, item_id, face)
);

CREATE TABLE export_schedules (
    id uuid PRIMARY KEY,
    tenant text NOT NULL,
    name text NOT NULL UNIQUE,
    cron text NOT NULL,
    time_zone text NOT NULL,
    release_filter jsonb NOT NULL DEFAULT '{}'::jsonb,
    enabled boolean NOT NULL DEFAULT true
);

CREATE TABLE exports (
    id uuid PRIMARY KEY,
    schedule_id uuid REFERENCES export_schedules (id),
    release_id uuid REFERENCES releases (id),
    window_start timestamptz,
    state text NOT NULL DEFAULT 'pending' CHECK (state IN ('pending', 'running', 'done', 'failed')),
    object_prefix text NOT NULL,
    manifest jsonb,
    created_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz,
    UNIQUE (schedule_id, window_start),
    CHECK (schedule_id IS NULL OR window_start IS NOT NULL)
);
CREATE UNIQUE INDEX exports_of_release ON exports (release_id) WHERE schedule_id IS NULL;
