--[[
The sidecar's decisions brought to kumod without HTTP.

The sidecar writes three files into one directory: shaping.toml (the overlay,
which kumod reads through `extra_files`), suspended.json and bounced.json. This
module watches them from a task of its own: it tells kumod about suspensions
and bounces, takes back those that left the files before their time, and makes
kumod read a changed overlay at once.

    package.path = '/usr/share/tsa-sidecar/lua/?.lua;' .. package.path
    local tsa_sidecar = require 'tsa_sidecar'

    kumo.on('init', function()
      tsa_sidecar.watch {}
    end)

Options of `watch`, all of them optional:

  directory  where the files are: /opt/kumomta/etc/tsa-sidecar
  interval   seconds between two looks: 1
  overlay    the overlay's name in that directory: shaping.toml; false leaves
             noticing it to kumod, which looks every 10 seconds below
             /opt/kumomta/etc

kumod keeps suspensions in memory only. This module's memory ends with kumod,
too, so a restarted kumod is told everything again.
]]

local kumo = require 'kumo'

local mod = {}

local EVENT = 'tsa_sidecar.watch'

-- Times ----------------------------------------------------------------------

-- Days from 1970-01-01 to a day of the Gregorian calendar; os.time would take
-- the local zone's summer time into account.
local function days(year, month, day)
  if month <= 2 then
    year, month = year - 1, month + 12
  end
  return 365 * year
    + year // 4
    - year // 100
    + year // 400
    + (153 * (month - 3) + 2) // 5
    + day
    - 719469
end

local TIME = '^(%d%d%d%d)%-(%d%d)%-(%d%d)[Tt ](%d%d):(%d%d):(%d%d)(%.?%d*)(.+)$'

-- Seconds since 1970 of an RFC 3339 time, or nil.
local function seconds(text)
  if type(text) ~= 'string' then
    return nil
  end
  local year, month, day, hour, minute, second, fraction, zone = text:match(TIME)
  if not year then
    return nil
  end
  local offset = 0
  if zone ~= 'Z' and zone ~= 'z' then
    local sign, hours, minutes = zone:match '^([+-])(%d%d):(%d%d)$'
    if not sign then
      return nil
    end
    offset = (hours * 60 + minutes) * (sign == '+' and 60 or -60)
  end
  return days(year // 1, month // 1, day // 1) * 86400
    + hour * 3600
    + minute * 60
    + second
    + (tonumber('0' .. fraction) or 0)
    - offset
end

-- Entries --------------------------------------------------------------------

-- JSON's null may arrive as a value of its own kind.
local function text(value)
  if type(value) == 'string' and value ~= '' then
    return value
  end
  return nil
end

local function ready_queue(item)
  local name = text(item.site_name)
  return name, { name = name }
end

-- Without a domain kumod would hold or bounce the mail of every domain.
local function scheduled_queue(item)
  local domain = text(item.domain)
  if not domain then
    return nil
  end
  local campaign, tenant = text(item.campaign), text(item.tenant)
  local key = string.format('%q %q %q', domain, tenant or '', campaign or '')
  return key, { domain = domain, tenant = tenant, campaign = campaign }
end

-- What kumod calls it, the function that makes one, and its target.
local KINDS = {
  ready_q = { api = 'suspend_ready_q', call = 'suspend', target = ready_queue },
  sched_q = { api = 'suspend', call = 'suspend', target = scheduled_queue },
  bounce = { api = 'bounce', call = 'bounce', target = scheduled_queue },
}

-- The request for one item and the key of its target; nil and why when there
-- can be none.
local function request_for(kind, item)
  if type(item) ~= 'table' then
    return nil, 'an entry is no table'
  end
  local key, request = kind.target(item)
  if not key then
    return nil, 'an entry names no queue'
  end
  local expires = seconds(item.expires)
  if not expires then
    return nil, 'an entry has no expiry'
  end
  request.reason = string.format(
    '%s (rule_hash=%s)',
    text(item.reason) or 'automation rule',
    tostring(item.rule_hash)
  )
  request.expires = item.expires
  return { key = key, request = request, expires = expires }
end

local function is_longer(one, other)
  if one.expires ~= other.expires then
    return one.expires > other.expires
  end
  -- Any order will do as long as it is always the same.
  return one.request.reason > other.request.reason
end

-- Longest entry a target. kumod keeps only what it was told last for a ready
-- queue, and for one set of campaign, tenant and domain.
local function longest(kind, items, now, complain)
  local wanted = {}
  for _, item in ipairs(items) do
    local entry, why = request_for(kind, item)
    if not entry then
      complain(why)
    elseif entry.expires > now then
      local other = wanted[entry.key]
      if not other or is_longer(entry, other) then
        wanted[entry.key] = entry
      end
    end
  end
  return wanted
end

-- Telling kumod --------------------------------------------------------------

local function is_same(one, other)
  return one.request.expires == other.request.expires
    and one.request.reason == other.request.reason
end

-- Takes an entry back; false when kumod could not be asked to.
local function cancel(kind, entry, complain)
  local delete = kumo.api.admin[kind.api].delete
  if not delete or entry.id == nil then
    complain 'this kumod takes nothing back: it stays until its expiry'
    return true
  end
  local ok, err = pcall(delete, entry.id)
  if not ok then
    complain(err)
  end
  return ok
end

-- Makes kumod agree with `wanted`; `told` is what it was told so far. Returns
-- false when something is left to be tried again.
local function reconcile(kind, wanted, told, now, complain)
  local done = true
  for key, entry in pairs(wanted) do
    local before = told[key]
    if not before or not is_same(before, entry) then
      local ok, id = pcall(kumo.api.admin[kind.api][kind.call], entry.request)
      if ok then
        entry.id = id
        told[key] = entry
        -- Newer kumods have replaced the old one already, and say so.
        if before and before.expires > now and before.id ~= nil and before.id ~= id then
          cancel(kind, before, complain)
        end
      else
        complain(id)
        done = false
      end
    end
  end
  for key, entry in pairs(told) do
    if not wanted[key] then
      if entry.expires <= now or cancel(kind, entry, complain) then
        told[key] = nil
      else
        done = false
      end
    end
  end
  return done
end

-- Files ----------------------------------------------------------------------

-- What a step returns when it found nothing new.
local UNCHANGED = 'unchanged'

-- The task has a thread of its own, so reading may block.
local function read(path)
  local file, err = io.open(path, 'rb')
  if not file then
    return nil, err
  end
  local content = file:read 'a'
  file:close()
  if not content then
    return nil, path .. ': cannot be read'
  end
  return content
end

local function parse(content)
  local serde = kumo.serde or kumo
  return serde.json_parse(content)
end

local function lists_of_suspended(document)
  return { ready_q = document.ready_q, sched_q = document.sched_q }
end

local function lists_of_bounced(document)
  return { bounce = document }
end

-- One file of entries: `step` reads it and makes kumod agree with it.
local function entries_file(path, lists_in, names, complain)
  local seen -- the text that kumod agrees with
  local told = {}
  for _, name in ipairs(names) do
    told[name] = {}
  end

  local function lists_from(content)
    local ok, document = pcall(parse, content)
    if not ok then
      return nil, document
    end
    if type(document) ~= 'table' then
      return nil, 'it holds no table'
    end
    local lists = lists_in(document)
    for _, name in ipairs(names) do
      if type(lists[name]) ~= 'table' then
        return nil, 'it has no list ' .. name
      end
    end
    return lists
  end

  -- A file that is missing or can't be parsed says nothing: what kumod was
  -- told stands, up to its expiry.
  return function()
    local content, err = read(path)
    if content == nil then
      complain(err)
      return
    end
    if content == seen then
      return UNCHANGED
    end
    local lists, why = lists_from(content)
    if not lists then
      complain(why)
      return
    end
    local now, done = os.time(), true
    for _, name in ipairs(names) do
      local kind = KINDS[name]
      local wanted = longest(kind, lists[name], now, complain)
      done = reconcile(kind, wanted, told[name], now, complain) and done
    end
    seen = done and content or nil
  end
end

-- The overlay: kumod reads it by itself; here it is only told when.
local function overlay_file(path, complain)
  local seen
  return function()
    local content, err = read(path)
    if content == nil then
      complain(err)
      return
    end
    if content == seen then
      return UNCHANGED
    end
    if seen ~= nil then
      kumo.bump_config_epoch()
    end
    seen = content
  end
end

-- The task -------------------------------------------------------------------

-- Writes each complaint about a file once, however many looks in a row it lasts.
local function complaints(path)
  local said, current = {}, {}
  local function complain(err)
    local message = tostring(err)
    local is_new = not said[message] and not current[message]
    current[message] = true
    if is_new then
      kumo.log_error(string.format('tsa_sidecar: %s: %s', path, message))
    end
  end
  local function next_look()
    said, current = current, {}
  end
  return complain, next_look
end

local function guarded(path, make)
  local complain, next_look = complaints(path)
  local step = make(complain)
  return function()
    local ok, result = pcall(step)
    if not ok then
      complain(result)
    end
    if result ~= UNCHANGED then
      next_look()
    end
  end
end

local function watchers(options)
  local function at(name)
    return options.directory .. '/' .. name
  end
  local suspended, bounced = at 'suspended.json', at 'bounced.json'
  local all = {
    guarded(suspended, function(complain)
      return entries_file(suspended, lists_of_suspended, { 'ready_q', 'sched_q' }, complain)
    end),
    guarded(bounced, function(complain)
      return entries_file(bounced, lists_of_bounced, { 'bounce' }, complain)
    end),
  }
  if options.overlay then
    local overlay = at(options.overlay)
    table.insert(
      all,
      guarded(overlay, function(complain)
        return overlay_file(overlay, complain)
      end)
    )
  end
  return all
end

-- kumo.sleep is the older name.
local function sleep(interval)
  local wait = kumo.time and kumo.time.sleep or kumo.sleep
  return pcall(wait, interval)
end

kumo.on(EVENT, function(args)
  local options = args[1]
  kumo.log_info('tsa_sidecar: watching ' .. options.directory)
  local steps = watchers(options)
  while true do
    for _, step in ipairs(steps) do
      step()
    end
    local ok, err = sleep(options.interval)
    if not ok then
      -- Looking again without a pause would take a whole core.
      kumo.log_error('tsa_sidecar: stopped watching: ' .. tostring(err))
      return
    end
  end
end)

local function checked(options)
  local known = { directory = 'string', interval = 'number', overlay = 'string' }
  for name, value in pairs(options) do
    if not known[name] then
      error('tsa_sidecar.watch: unknown option ' .. tostring(name), 3)
    end
    if type(value) ~= known[name] and not (name == 'overlay' and value == false) then
      error(string.format('tsa_sidecar.watch: %s must be a %s', name, known[name]), 3)
    end
  end
  local interval = options.interval or 1
  if not (interval > 0 and interval < math.huge) then
    error('tsa_sidecar.watch: interval must be more than 0 seconds', 3)
  end
  local overlay = options.overlay
  if overlay == nil then
    overlay = 'shaping.toml'
  end
  return {
    directory = options.directory or '/opt/kumomta/etc/tsa-sidecar',
    interval = interval,
    overlay = overlay,
  }
end

--- Starts the task. Call it once, inside the handler of `init`.
function mod.watch(options)
  kumo.spawn_task { event_name = EVENT, args = { checked(options or {}) } }
end

return mod
