-- Every user: with a login where one registered here, without where only a token was seen.
CREATE TABLE account (
    user_id TEXT PRIMARY KEY,
    username TEXT NOT NULL,
    -- The name in lower case: two names that differ in case alone would be one person to a reader.
    login TEXT UNIQUE,
    email TEXT,
    password_hash TEXT,
    is_disabled BOOLEAN NOT NULL,
    created_ms BIGINT NOT NULL,
    changed_ms BIGINT NOT NULL
);

CREATE INDEX account_changed ON account (changed_ms);

CREATE TABLE message (
    id TEXT PRIMARY KEY,
    from_user_id TEXT NOT NULL,
    to_user_id TEXT,
    group_id TEXT,
    content TEXT NOT NULL,
    created_at BIGINT NOT NULL
);

-- One row for each who may pull a message: whom it was for when it was written, and who wrote it.
-- Those of direct messages come later, in bulk; until then the message itself says whose it is.
CREATE TABLE inbox (
    user_id TEXT NOT NULL,
    message_id TEXT NOT NULL,
    -- The other one of a direct message.
    with_user TEXT,
    PRIMARY KEY (user_id, message_id)
);

-- The newest direct message that has its rows in the inboxes.
CREATE TABLE inbox_state (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    up_to TEXT NOT NULL
);

INSERT INTO inbox_state (id, up_to) VALUES (1, '');

CREATE TABLE chat_group (
    group_id TEXT PRIMARY KEY,
    name TEXT NOT NULL,
    owner TEXT NOT NULL,
    created_ms BIGINT NOT NULL
);

CREATE INDEX chat_group_owner ON chat_group (owner);

CREATE TABLE group_member (
    group_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    -- Rises with each who comes.
    number BIGINT NOT NULL,
    PRIMARY KEY (group_id, user_id)
);

CREATE INDEX group_member_user ON group_member (user_id);

CREATE TABLE channel (
    name TEXT PRIMARY KEY,
    description TEXT NOT NULL,
    created_ms BIGINT NOT NULL
);
