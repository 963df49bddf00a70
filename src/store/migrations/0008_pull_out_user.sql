-- Who pulled it out: the user of the call's token. `operator` is what the caller wrote beside it.
ALTER TABLE pull_out ADD COLUMN user_id TEXT;
