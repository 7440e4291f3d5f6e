-- Standard input on its way to commands, marks that lists are asked for, and lifetimes.

-- Pieces that the environment does not have yet; they go when it has them, or with the job's end.
CREATE TABLE stdin (
    tenant TEXT NOT NULL,
    job BLOB NOT NULL,
    -- Offsets of the first byte and after the last one.
    start INTEGER NOT NULL,
    finish INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX stdin_by_start ON stdin (tenant, job, start);

-- How far the input of a job is; no row where nobody has written to it.
CREATE TABLE stdin_intakes (
    tenant TEXT NOT NULL,
    job BLOB NOT NULL,
    accepted INTEGER NOT NULL,
    taken INTEGER NOT NULL,
    closed INTEGER NOT NULL,
    broken INTEGER NOT NULL,
    PRIMARY KEY (tenant, job)
) WITHOUT ROWID;

CREATE TABLE job_labels (
    tenant TEXT NOT NULL,
    job BLOB NOT NULL,
    environment TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (tenant, job, name)
) WITHOUT ROWID;
CREATE INDEX job_labels_by_value ON job_labels (tenant, name, value, job);
CREATE INDEX job_labels_by_environment ON job_labels (tenant, environment, name, value, job);
INSERT INTO job_labels
    SELECT jobs.tenant, jobs.id, jobs.environment, label.key, label.value
    FROM jobs, json_each(jobs.record, '$.labels') AS label;

CREATE TABLE environment_labels (
    tenant TEXT NOT NULL,
    id TEXT NOT NULL,
    name TEXT NOT NULL,
    value TEXT NOT NULL,
    PRIMARY KEY (tenant, id, name)
) WITHOUT ROWID;
CREATE INDEX environment_labels_by_value ON environment_labels (tenant, name, value, id);
INSERT INTO environment_labels
    SELECT environments.tenant, environments.id, label.key, label.value
    FROM environments, json_each(environments.record, '$.spec.labels') AS label
    WHERE environments.phase <> 'deleted';

-- Of those that are not going: when their lifetime is over.
ALTER TABLE environments ADD COLUMN expires_at INTEGER;
UPDATE environments SET expires_at =
    (unixepoch(json_extract(record, '$.created_at')) + json_extract(record, '$.spec.ttl_seconds')) * 1000000
    WHERE json_extract(record, '$.spec.ttl_seconds') IS NOT NULL AND phase NOT IN ('deleting', 'deleted');
CREATE INDEX environments_by_expiry ON environments (expires_at) WHERE expires_at IS NOT NULL;

-- When an environment last had something to do.
CREATE INDEX jobs_by_environment_end ON jobs (tenant, environment, finished_at) WHERE finished_at IS NOT NULL;
