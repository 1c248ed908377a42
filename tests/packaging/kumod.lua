-- A stand-in for what kumod gives a policy, as far as packaging/lua needs it.
--
-- In: `parse`, a function from JSON text to Lua values, and `now`, a function
-- that gives the time. Out: a table of what the policy asked for and of
-- functions to drive it.
--
-- Suspensions behave as kumod's: one a ready queue, one a set of campaign,
-- tenant and domain; each has an id, and the last one told stands.

local parse, now = ...

local seen = {
  calls = {}, -- every call of the admin API, in order
  failing = {}, -- "api.function" -> the error it raises
  logs = {},
  tasks = {},
  local_logs = {},
  listeners = {},
  shaping = {},
  publish_set_up = 0,
  epochs = 0,
}

local handlers = {}
local ids = 0

local function log(level)
  return function(...)
    local words = table.pack(...)
    for i = 1, words.n do
      words[i] = tostring(words[i])
    end
    table.insert(seen.logs, { level = level, text = table.concat(words, ' ') })
  end
end

local function admin(api, make, key_of)
  local entries = {}
  seen[api] = entries
  local function called(name, argument)
    table.insert(seen.calls, { name = api .. '.' .. name, argument = argument })
    local failure = seen.failing[api .. '.' .. name]
    if failure then
      error(failure, 0)
    end
  end
  local module = {}
  module[make] = function(request)
    called(make, request)
    assert(type(request.reason) == 'string', 'missing field `reason`')
    ids = ids + 1
    local id = 'id-' .. ids
    entries[key_of(request)] = { id = id, request = request }
    return id
  end
  function module.delete(id)
    called('delete', id)
    for key, entry in pairs(entries) do
      if entry.id == id then
        entries[key] = nil
        return true
      end
    end
    return false
  end
  return module
end

local function by_name(request)
  return request.name
end

local function by_criteria(request)
  return string.format('%s:%s@%s', request.campaign or '*', request.tenant or '*', request.domain or '*')
end

local function keep(list)
  return function(params)
    table.insert(list, params)
  end
end

local kumo = {
  log_error = log 'error',
  log_warn = log 'warn',
  log_info = log 'info',
  log_debug = log 'debug',
  sleep = coroutine.yield,
  time = { sleep = coroutine.yield },
  serde = { json_parse = parse },
  json_parse = parse,
  configure_local_logs = keep(seen.local_logs),
  start_esmtp_listener = keep(seen.listeners),
  start_http_listener = keep(seen.listeners),
  define_spool = keep {},
  spawn_task = keep(seen.tasks),
  api = {
    admin = {
      suspend_ready_q = admin('suspend_ready_q', 'suspend', by_name),
      suspend = admin('suspend', 'suspend', by_criteria),
      bounce = admin('bounce', 'bounce', by_criteria),
    },
  },
}

function kumo.on(event, handler)
  assert(not handlers[event], 'the event ' .. event .. ' has a handler already')
  handlers[event] = handler
end

function kumo.bump_config_epoch()
  seen.epochs = seen.epochs + 1
end

package.loaded.kumo = kumo
os.time = now

package.loaded['policy-extras.shaping'] = {
  setup_with_automation = function(_, options)
    table.insert(seen.shaping, options)
    return {
      setup_publish = function()
        seen.publish_set_up = seen.publish_set_up + 1
      end,
      get_egress_path_config = function() end,
    }
  end,
}

function seen.fire(event)
  handlers[event]()
end

function seen.handles(event)
  return handlers[event] ~= nil
end

-- Runs the task up to its next sleep; nil once it has ended.
function seen.start(task)
  local thread = coroutine.create(handlers[task.event_name])
  return function()
    if coroutine.status(thread) == 'dead' then
      return nil
    end
    local ok, slept = coroutine.resume(thread, task.args)
    if not ok then
      error(slept, 0)
    end
    return slept
  end
end

return seen
