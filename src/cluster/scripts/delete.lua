-- Forgets a channel.
-- KEYS: stream, meta.
-- Returns whether there was one.
redis.call('DEL', KEYS[1])
return redis.call('DEL', KEYS[2])
