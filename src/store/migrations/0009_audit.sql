-- What happened. A row has events of one transaction of one node, in their order, one JSON object a line:
-- as rows of their own they would cost ten times as much to write.
CREATE TABLE audit_batch (
    -- The id of its last event; those before it have the ids before.
    last_id BIGINT PRIMARY KEY,
    node TEXT NOT NULL,
    from_ms BIGINT NOT NULL,
    to_ms BIGINT NOT NULL,
    -- The service, where all its events are about one.
    service_id TEXT,
    bytes BIGINT NOT NULL,
    events TEXT NOT NULL
);

-- The id of the last event there ever was, and the bytes of all batches.
CREATE TABLE audit_state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    last_id BIGINT NOT NULL,
    bytes BIGINT NOT NULL
);

INSERT INTO audit_state (id, last_id, bytes) VALUES (1, 0, 0);

-- Each node's last event here, by the node's own count: a set that comes twice is written once.
CREATE TABLE audit_writer (
    node TEXT PRIMARY KEY,
    number BIGINT NOT NULL,
    at_ms BIGINT NOT NULL
);
