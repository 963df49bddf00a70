-- Who is asked to come into a group and has not answered, where the server asks.
CREATE TABLE group_invitation (
    group_id TEXT NOT NULL,
    user_id TEXT NOT NULL,
    invited_by TEXT NOT NULL,
    invited_ms BIGINT NOT NULL,
    PRIMARY KEY (group_id, user_id)
);

CREATE INDEX group_invitation_user ON group_invitation (user_id);
