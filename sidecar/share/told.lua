-- Move a host's watermark: of its segments with lesser names everything is told.
-- KEYS: stream, this host's positions, group.
-- ARGV: epoch, "HOST", watermark, "1" if those who read are to be told.
-- Answers: {"done"}, {"epoch"}.
local stream, positions, group = KEYS[1], KEYS[2], KEYS[3]
local epoch, host, watermark = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', group, 'epoch') ~= epoch then
    return {'epoch'}
end
local added = redis.call('HGET', group, 'added')
local of, told = string.match(redis.call('HGET', positions, '/told') or '', '^(%S+) (.*)$')
if of ~= epoch or (added and redis.call('EXISTS', stream) == 0) then
    return {'epoch'}
end

if not comes_before(told, watermark) then
    return {'done'}
end
local all = redis.call('HGETALL', positions)
for i = 1, #all, 2 do
    if string.sub(all[i], 1, 1) ~= '/' and comes_before(all[i], watermark) then
        redis.call('HDEL', positions, all[i])
    end
end
redis.call('HSET', positions, '/told', epoch .. ' ' .. watermark)
if ARGV[4] ~= '1' then
    return {'done'}
end
local number = string.format('%.0f', tonumber(added or '0') + 1)
redis.call('XADD', stream, '*', 'v', '1', 'host', host, 'segment', '/told', 'line', '1',
    'kind', 'told', 'n', number, 'data', watermark)
redis.call('HINCRBY', group, 'added', 1)
return {'done'}
