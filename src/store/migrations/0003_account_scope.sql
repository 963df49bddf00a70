-- What an account may do where it shows its name and password instead of a token: scopes between
-- spaces. Tokens of a login have none.
ALTER TABLE account ADD COLUMN scope TEXT;
