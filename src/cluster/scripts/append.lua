-- Appends entries, each with the next number.
-- KEYS: log, sequence, epoch.
-- ARGV: node, and for each entry its number at the node, its time and its text.
if redis.call('EXISTS', KEYS[3]) == 0 then
    return redis.error_reply('NOLOG no log was begun')
end
for i = 2, #ARGV, 3 do
    local s = redis.call('INCR', KEYS[2])
    redis.call('XADD', KEYS[1], '*', 's', s, 'n', ARGV[1], 'k', ARGV[i], 't', ARGV[i + 1],
        'e', ARGV[i + 2])
end
return redis.call('GET', KEYS[2])
