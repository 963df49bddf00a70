-- Makes every id that the journal will give out higher than one that the database has.
-- KEYS: journal, its sequence.
-- ARGV: that id.
-- Returns the number of the entry that it took; 0 where it took none.
local last = '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
    local about = redis.call('XINFO', 'STREAM', KEYS[1])
    for i = 1, #about, 2 do
        if about[i] == 'last-generated-id' then last = about[i + 1] end
    end
end
local ms, n = string.match(last, '(%d+)-(%d+)')
local floor_ms, floor_n = string.match(ARGV[1], '(%d+)-(%d+)')
ms, n, floor_ms, floor_n = tonumber(ms), tonumber(n), tonumber(floor_ms), tonumber(floor_n)
if ms > floor_ms or (ms == floor_ms and n >= floor_n) then return 0 end
local s = redis.call('INCR', KEYS[2])
redis.call('XADD', KEYS[1], ARGV[1], 's', s)
return s
