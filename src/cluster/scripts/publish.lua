-- Gives a message of a channel its place, keeps it, and tells everyone who follows.
-- KEYS: stream, meta.
-- ARGV: epoch to begin with, how many messages are kept, for how many milliseconds, and for how
-- many the meta is, topic, text, who does not get it, how many bytes of messages are kept.
-- Returns epoch, offset and time.
--
-- Each entry says how many bytes the channel has had with it. What is too much is looked for once
-- an eighth of the bound has come since the last look.
--
-- What expires is set to do so an eighth later than it has to, and set anew when that eighth is
-- over: two writes fewer a message.
local meta = redis.call('HMGET', KEYS[2], 'e', 'x', 'b', 'c')
local epoch = meta[1]
if not epoch then
    epoch = ARGV[1]
    redis.call('HSET', KEYS[2], 'e', epoch)
end
local offset = redis.call('HINCRBY', KEYS[2], 's', 1)
-- What an earlier life of the channel left behind.
if offset == 1 then redis.call('DEL', KEYS[1]) end
local place = string.format('%d', offset)
local t = redis.call('TIME')
local at = string.format('%d', t[1] * 1000 + math.floor(t[2] / 1000))
if tonumber(ARGV[2]) > 0 then
    local bytes = tonumber(meta[3] or '0') + #ARGV[6]
    local sum = string.format('%d', bytes)
    redis.call('HSET', KEYS[2], 'b', sum)
    if ARGV[7] == '' then
        redis.call('XADD', KEYS[1], 'MAXLEN', '=', ARGV[2], place .. '-0', 't', at,
            'm', ARGV[6], 'b', sum)
    else
        redis.call('XADD', KEYS[1], 'MAXLEN', '=', ARGV[2], place .. '-0', 't', at,
            'm', ARGV[6], 'b', sum, 'x', ARGV[7])
    end
    local max = tonumber(ARGV[8])
    if bytes - tonumber(meta[4] or '0') > max / 8 then
        redis.call('HSET', KEYS[2], 'c', sum)
        local from, drop = '-', nil
        while from do
            local some = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', 16)
            from = nil
            for _, entry in ipairs(some) do
                local size, upto = 0, 0
                for i = 1, #entry[2], 2 do
                    if entry[2][i] == 'm' then size = #entry[2][i + 1] end
                    if entry[2][i] == 'b' then upto = tonumber(entry[2][i + 1]) end
                end
                from = nil
                if bytes - upto + size <= max then break end
                local number = tonumber(string.match(entry[1], '(%d+)'))
                drop = string.format('%d', number + 1) .. '-0'
                from = drop
            end
        end
        if drop then redis.call('XTRIM', KEYS[1], 'MINID', '=', drop) end
    end
end
if not meta[2] or tonumber(meta[2]) <= tonumber(at) then
    local more = math.max(1, math.floor(math.min(ARGV[3], ARGV[4]) / 8))
    redis.call('HSET', KEYS[2], 'x', string.format('%d', at + more))
    redis.call('PEXPIRE', KEYS[1], string.format('%d', ARGV[3] + more))
    redis.call('PEXPIRE', KEYS[2], string.format('%d', ARGV[4] + more))
end
redis.call('PUBLISH', ARGV[5],
    epoch .. ' ' .. place .. ' ' .. at .. ' ' .. ARGV[7] .. '\n' .. ARGV[6])
return {epoch, place, at}
