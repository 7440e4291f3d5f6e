-- The first schema.
--
-- A record is its JSON; the columns beside it are what it is found by. The tenant leads every key and index, but for
-- those of sweeps, which walk all tenants. Times are microseconds since 1970, ids of jobs the 16 bytes of their UUID,
-- which sort by the time they were accepted.

CREATE TABLE meta (
    name TEXT PRIMARY KEY,
    value TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE environments (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    phase TEXT NOT NULL,
    -- The create job of this life.
    created_by BLOB NOT NULL,
    record TEXT NOT NULL
);
CREATE UNIQUE INDEX environments_by_id ON environments (tenant, id);
CREATE INDEX environments_living ON environments (tenant, id) WHERE phase <> 'deleted';
CREATE INDEX environments_by_phase ON environments (phase, tenant, id);

CREATE TABLE jobs (
    tenant TEXT NOT NULL,
    id BLOB NOT NULL,
    environment TEXT NOT NULL,
    kind TEXT NOT NULL,
    -- Of a kind that only reads: left out of lists, kept for minutes.
    hidden INTEGER NOT NULL,
    -- 0 lifecycle, 1 work.
    lane INTEGER NOT NULL,
    state TEXT NOT NULL,
    -- Runnable and not leased.
    waiting INTEGER NOT NULL,
    fence INTEGER NOT NULL,
    -- The lease's.
    owner TEXT,
    finished_at INTEGER,
    record TEXT NOT NULL
);
CREATE UNIQUE INDEX jobs_by_id ON jobs (tenant, id);
-- Lists, newest first.
CREATE INDEX jobs_shown ON jobs (tenant, id) WHERE hidden = 0;
CREATE INDEX jobs_by_kind ON jobs (tenant, kind, id);
CREATE INDEX jobs_by_state ON jobs (tenant, state, id) WHERE hidden = 0;
CREATE INDEX jobs_by_environment ON jobs (tenant, environment, id) WHERE hidden = 0;
CREATE INDEX jobs_by_environment_kind ON jobs (tenant, environment, kind, id);
CREATE INDEX jobs_by_environment_state ON jobs (tenant, environment, state, id) WHERE hidden = 0;
-- What has not ended, however much has: settling, counting, the queue's and the takeover's sweeps.
CREATE INDEX jobs_open ON jobs (tenant, environment, id, kind, state) WHERE finished_at IS NULL;
CREATE INDEX jobs_waiting ON jobs (lane, id, tenant) WHERE waiting = 1;
CREATE INDEX jobs_held ON jobs (id, tenant, lane, owner, fence) WHERE owner IS NOT NULL;
-- What is past its time.
CREATE INDEX jobs_ended ON jobs (hidden, finished_at) WHERE finished_at IS NOT NULL;

CREATE TABLE idempotency (
    tenant TEXT NOT NULL,
    scope TEXT NOT NULL,
    key TEXT NOT NULL,
    fingerprint BLOB NOT NULL,
    job BLOB NOT NULL,
    created_at INTEGER NOT NULL,
    PRIMARY KEY (tenant, scope, key)
) WITHOUT ROWID;
CREATE INDEX idempotency_by_age ON idempotency (created_at);

-- Pieces of at most 256 KiB, so that a window is read without what lies around it.
CREATE TABLE output (
    tenant TEXT NOT NULL,
    job BLOB NOT NULL,
    -- 0 standard output, 1 standard error.
    stream INTEGER NOT NULL,
    -- Offsets of the first byte and after the last one.
    start INTEGER NOT NULL,
    finish INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX output_by_start ON output (tenant, job, stream, start, finish);

CREATE TABLE artifacts (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    record TEXT NOT NULL
);
CREATE UNIQUE INDEX artifacts_by_id ON artifacts (tenant, id);
CREATE INDEX artifacts_by_age ON artifacts (tenant, created_at, id);

CREATE TABLE beats (
    worker TEXT PRIMARY KEY,
    count INTEGER NOT NULL
) WITHOUT ROWID;

CREATE TABLE roles (
    role TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    fence INTEGER NOT NULL
) WITHOUT ROWID;
