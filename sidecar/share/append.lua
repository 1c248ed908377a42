-- Append a portion of a segment, once.
-- KEYS: stream, this host's positions, group.
-- ARGV: epoch, "HOST", "SEGMENT", from, to, age in ms, most entries, "1" if it holds sums,
--       then for each item: line, kind, data, since.
-- Answers: {"done", appended, trimmed by number}, {"gap", position}, {"epoch"}.
local stream, positions, group = KEYS[1], KEYS[2], KEYS[3]
local epoch, host, segment, from, to = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

if redis.call('HGET', group, 'epoch') ~= epoch then
    return {'epoch'}
end
local added = redis.call('HGET', group, 'added')
if added and redis.call('EXISTS', stream) == 0 then
    return {'epoch'} -- the engine has evicted the stream, but not the rest
end

local known = redis.call('HGET', positions, segment)
if not known then
    local of, told = string.match(redis.call('HGET', positions, '/told') or '', '^(%S+) (.*)$')
    if of ~= epoch then
        return {'epoch'} -- the engine has lost the positions, but not the rest
    end
    if string.sub(segment, 1, 1) ~= '/' and comes_before(segment, told) then
        return {'done', 0, 0}
    end
    known = string.match(segment, '^/late/(%d+)/')
end
local position = string.match(known or '', '^%d+') or '0'
local at, first, last = tonumber(position), tonumber(from), tonumber(to)
if at >= last and last > 0 then
    return {'done', 0, 0}
end
-- A sum that begins before the position can't be told in part.
if at < first or (at > first and ARGV[8] == '1') then
    return {'gap', position}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local number = tonumber(added or '0')
local appended = 0
for i = 9, #ARGV, 4 do
    if tonumber(ARGV[i]) > at then
        appended = appended + 1
        local fields = {'v', '1', 'host', host, 'segment', segment, 'line', ARGV[i],
            'kind', ARGV[i + 1], 'n', string.format('%.0f', number + appended), 'data', ARGV[i + 2]}
        if ARGV[i + 1] == 'attempts' then
            fields[15], fields[16] = 'since', ARGV[i + 3]
        end
        redis.call('XADD', stream, '*', unpack(fields))
    end
end
redis.call('HSET', positions, segment, to .. ' ' .. string.format('%.0f', now))
local cut = 0
if appended > 0 then
    redis.call('HINCRBY', group, 'added', appended)
    local oldest = now - tonumber(ARGV[6])
    redis.call('XTRIM', stream, 'MINID', '~', string.format('%.0f', math.max(oldest, 0)))
    cut = redis.call('XTRIM', stream, 'MAXLEN', '~', ARGV[7])
end
return {'done', appended, cut}
