-- Services that were forgotten leave the revision above which new ones begin, and nothing else.
ALTER TABLE registry ADD COLUMN revision_floor BIGINT NOT NULL DEFAULT 0;
ALTER TABLE service ADD COLUMN empty_since_ms BIGINT;
-- An instance that took itself out of discovery was told from an operator by the operator's name.
ALTER TABLE pull_out ADD COLUMN by_itself BOOLEAN NOT NULL DEFAULT FALSE;
UPDATE pull_out SET by_itself = TRUE, operator = '' WHERE operator = 'itself';
