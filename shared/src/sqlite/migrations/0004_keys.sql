-- The keys that open the service, as hashes.

CREATE TABLE keys (
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    record TEXT NOT NULL,
    PRIMARY KEY (tenant, name)
) WITHOUT ROWID;
