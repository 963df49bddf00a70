-- Begins a log where there is none, where the one known is shorter than it was, where one was
-- begun with nothing and something is known, or where a node has asked for a snapshot in vain.
-- KEYS: epoch, snapshot, sequence, log, bare, wanted.
-- ARGV: epoch, snapshot, the epoch known or nothing, how many entries that had, for how many
-- milliseconds one that is begun with nothing gives way, the node that asked in vain or nothing, the
-- number of the snapshot, from which the entries count on.
-- Returns the epoch in force.
--
-- What a node begins that asked in vain gives way as well: one that knows more may only be slow.
local epoch = redis.call('GET', KEYS[1])
local s = tonumber(redis.call('GET', KEYS[3]) or '0')
local is_short = epoch == ARGV[3] and s < tonumber(ARGV[4])
local gives_way = ARGV[3] ~= '' and ARGV[3] ~= epoch
    and redis.call('GET', KEYS[5]) == epoch
local in_vain = ARGV[6] ~= '' and redis.call('GET', KEYS[6]) == ARGV[6]
    and epoch == ARGV[3]
if epoch and not is_short and not gives_way and not in_vain then return epoch end
redis.call('DEL', KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
redis.call('SET', KEYS[2], ARGV[2])
redis.call('SET', KEYS[3], ARGV[7])
redis.call('SET', KEYS[1], ARGV[1])
if ARGV[3] == '' or in_vain then redis.call('SET', KEYS[5], ARGV[1], 'PX', ARGV[5]) end
return ARGV[1]
