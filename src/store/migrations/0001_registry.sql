-- One row: what is true of the registry as a whole.
CREATE TABLE registry (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    epoch TEXT NOT NULL,
    version BIGINT NOT NULL,
    is_clean BOOLEAN NOT NULL
);

CREATE TABLE service (
    service_id TEXT PRIMARY KEY,
    revision BIGINT NOT NULL,
    protection_enabled BOOLEAN NOT NULL,
    degraded_since_ms BIGINT
);

CREATE TABLE instance (
    identity TEXT PRIMARY KEY,
    service_id TEXT NOT NULL,
    json TEXT NOT NULL,
    lease_ttl_ms BIGINT NOT NULL
);

-- Apart from the instances, because a decision outlives a registration.
CREATE TABLE pull_out (
    identity TEXT PRIMARY KEY,
    operator TEXT NOT NULL
);
