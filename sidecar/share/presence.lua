-- Say that a host is there, and learn who else is.
-- KEYS: stream, this host's positions, group, hosts.
-- ARGV: "HOST", JSON ("": it only listens), ms after which a silent host is dropped,
--       ms after which a position of this host that did not move is dropped ("0": not now).
-- Answers: now in ms, items ever added, {host, "MS JSON", host, "MS JSON" ...},
--          what was said last under this name, epoch ("" where the stream is lost).
local stream, positions, group, hosts = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

-- What has no time in front was written by a stranger: it is dropped as well.
local function drop_silent(key, pattern, longest, dropped)
    local kept = {}
    local all = redis.call('HGETALL', key)
    for i = 1, #all, 2 do
        local at = tonumber(string.match(all[i + 1], pattern) or '')
        if all[i] ~= '/told' and (not at or now - at > longest) then
            redis.call('HDEL', key, all[i])
            dropped(all[i])
        else
            kept[#kept + 1] = all[i]
            kept[#kept + 1] = all[i + 1]
        end
    end
    return kept
end

local before = redis.call('HGET', hosts, ARGV[1]) or ''
if ARGV[2] ~= '' then
    redis.call('HSET', hosts, ARGV[1], string.format('%.0f', now) .. ' ' .. ARGV[2])
end
-- A host that comes back tells again what its log has; the others know what they heard of it.
local there = drop_silent(hosts, '^%d+', tonumber(ARGV[3]), function(host)
    redis.call('DEL', string.sub(positions, 1, -#ARGV[1] - 1) .. host)
end)
if ARGV[4] ~= '0' then
    drop_silent(positions, '^%d+ (%d+)$', tonumber(ARGV[4]), function() end)
end
local added = redis.call('HGET', group, 'added')
local epoch = redis.call('HGET', group, 'epoch') or ''
if added and redis.call('EXISTS', stream) == 0 then
    epoch = ''
end
return {string.format('%.0f', now), added or '0', there, before, epoch}
