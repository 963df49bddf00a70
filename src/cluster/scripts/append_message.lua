-- Puts a message into the journal.
-- KEYS: journal, its sequence.
-- ARGV: chance, text.
-- Returns the entry's id, its number and the chance.
local s = redis.call('INCR', KEYS[2])
local id = redis.call('XADD', KEYS[1], '*', 's', s, 'r', ARGV[1], 'm', ARGV[2])
return {id, s, ARGV[1]}
