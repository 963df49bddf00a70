-- What names are compared by (NFKC without case), and what they look like. The server fills both
-- when it opens the database, because SQL knows neither. Of accounts from older releases whose names
-- meet in one form the eldest has it; the others keep `login`, and their columns here stay empty.
ALTER TABLE account ADD COLUMN name_key TEXT;
ALTER TABLE account ADD COLUMN name_skeleton TEXT;
-- What a user id looks like; '' for a UUID, which no name looks like. NULL: not filled yet.
ALTER TABLE account ADD COLUMN id_skeleton TEXT;
-- Tokens made before this count no more, in milliseconds since 1970, but for one.
ALTER TABLE account ADD COLUMN tokens_from_ms BIGINT NOT NULL DEFAULT 0;
ALTER TABLE account ADD COLUMN kept_token TEXT;

CREATE UNIQUE INDEX account_name_key ON account (name_key);
CREATE UNIQUE INDEX account_name_skeleton ON account (name_skeleton);
CREATE INDEX account_id_skeleton ON account (id_skeleton);

-- Single tokens that count no more, by a digest, until they run out.
CREATE TABLE revoked_token (
    token_id TEXT PRIMARY KEY,
    -- '' where only the token's own id was given.
    user_id TEXT NOT NULL,
    expires_s BIGINT NOT NULL,
    changed_ms BIGINT NOT NULL
);

CREATE INDEX revoked_token_user ON revoked_token (user_id);
CREATE INDEX revoked_token_expires ON revoked_token (expires_s);
CREATE INDEX revoked_token_changed ON revoked_token (changed_ms);
