-- Whether a stream is the one that an entry was read from. The last id that a stream gave out
-- outlives its entries; a stream that is not there contradicts nothing.
local function has(log, position)
    if position == '0-0' or redis.call('EXISTS', log) == 0 then return true end
    if #redis.call('XRANGE', log, position, position) > 0 then return true end
    local about = redis.call('XINFO', 'STREAM', log)
    for i = 1, #about, 2 do
        if about[i] == 'last-generated-id' then return about[i + 1] == position end
    end
    return false
end
