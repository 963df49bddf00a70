-- Tells whether the log is the one that an entry was read from.
-- KEYS: log.
-- ARGV: the entry's id.
return has(KEYS[1], ARGV[1]) and 1 or 0
