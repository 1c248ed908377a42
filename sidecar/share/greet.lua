-- What a host must know before it appends.  KEYS: stream, this host's positions, group.
-- ARGV: a random id (the epoch, if there is none).
-- Answers: epoch, watermark, {segment, line, segment, line ...} of that host.
local stream, positions, group = KEYS[1], KEYS[2], KEYS[3]
local epoch = redis.call('HGET', group, 'epoch')
local lost = epoch and redis.call('HGET', group, 'added') and redis.call('EXISTS', stream) == 0
if lost or not epoch then
    -- Flushed, or evicted in part: everything is told again.
    redis.call('DEL', group)
    redis.call('HSET', group, 'epoch', ARGV[1])
    epoch = ARGV[1]
end
local of, told = string.match(redis.call('HGET', positions, '/told') or '', '^(%S+) (.*)$')
if of ~= epoch then
    -- They are of what was lost, or are lost themselves.
    redis.call('DEL', positions)
    redis.call('HSET', positions, '/told', epoch .. ' ')
    told = ''
end
local found = {}
local all = redis.call('HGETALL', positions)
for i = 1, #all, 2 do
    if all[i] ~= '/told' then
        found[#found + 1] = all[i]
        found[#found + 1] = string.match(all[i + 1], '^%d+') or '0'
    end
end
return {epoch, told, found}
