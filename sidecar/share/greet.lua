-- What a host must know before it appends.  KEYS: stream, positions, group.
-- ARGV: a random id (the epoch, if there is none), "HOST".
-- Answers: epoch, {segment, line, segment, line ...} of that host.
local stream, positions, group = KEYS[1], KEYS[2], KEYS[3]
local epoch = redis.call('HGET', group, 'epoch')
local lost = epoch and redis.call('HGET', group, 'added') and redis.call('EXISTS', stream) == 0
if lost or not epoch then
    -- Flushed, or evicted in part: everything is told again.
    redis.call('DEL', positions, group)
    redis.call('HSET', group, 'epoch', ARGV[1])
    epoch = ARGV[1]
end
local found = {}
local prefix = ARGV[2] .. ' '
local all = redis.call('HGETALL', positions)
for i = 1, #all, 2 do
    if string.sub(all[i], 1, #prefix) == prefix then
        found[#found + 1] = string.sub(all[i], #prefix + 1)
        found[#found + 1] = string.match(all[i + 1], '^%d+') or '0'
    end
end
return {epoch, found}
