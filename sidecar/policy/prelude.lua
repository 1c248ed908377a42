-- What a policy finds when it runs in the sidecar: the modules `kumo`, `tsa`
-- and `sidecar`, and a Lua without the ways out of it.
--
-- In: `host`, the one function of the Python side (it takes an operation's
-- name and plain values and returns true and a plain value, or false and a
-- reason), and `setup`.  Out: a table of functions for Python to call; each
-- returns true, or false and what went wrong and where.
--
-- The policy is the operator's own code, but nothing it does may end or hang
-- the service, so: everything this file needs is local (a policy may replace
-- any global), `host` is only an upvalue, and there is no debug library to
-- reach upvalues with (KumoMTA's own Lua has none either).

local host, setup = ...

local SELF = '=sidecar'
local error, ipairs, load, pcall, setmetatable = error, ipairs, load, pcall, setmetatable
local tonumber, tostring, type, xpcall = tonumber, tostring, type, xpcall
local rawget, rawset = rawget, rawset
local getinfo, sethook = debug.getinfo, debug.sethook
local find, match, sub = string.find, string.match, string.sub
local concat, pack = table.concat, table.pack
local count_memory = collectgarbage
local open_file, file_type = io.open, io.type
local search_path, loaded = package.searchpath, package.loaded
local co = coroutine
local co_create, co_resume, co_close = co.create, co.resume, co.close

local NO_MEMORY = 'not enough memory'

-- Where we are -------------------------------------------------------------

local fatal -- set once a limit was reached; from then on nothing can be caught
local here_file, here_line -- the last position seen, for errors that leave none
local handler -- the event handler that is running: func, file, line
local located = {} -- messages that say where they belong: text, file, line
local sources = {} -- whole names of the files that were loaded, by what Lua shortens them to

local function file_of(info)
  if sub(info.source, 1, 1) == '@' then
    return sub(info.source, 2)
  end
  return info.short_src
end

local function is_policy(info)
  return info.what ~= 'C' and info.source ~= SELF
end

-- The innermost line of the policy's own code. A tail call leaves no line:
-- then the definition of the handler that is running has to do.
local function position()
  for level = 2, 100 do
    local info = getinfo(level, 'Sl')
    if not info then
      break
    end
    if is_policy(info) then
      return file_of(info), info.currentline
    end
  end
  if handler then
    return handler.file, handler.line
  end
  return setup.policy, nil
end

-- Describes an error where the stack still stands; for xpcall.
local function explain(err)
  local text
  if type(err) == 'string' then
    text = err
  else
    local ok, said = pcall(tostring, err)
    if type(err) == 'table' and ok and not find(said, '^table: ') then
      text = said
    else
      text = 'the error is ' .. (err == nil and 'nil' or 'a ' .. type(err)) .. ', not a message'
    end
  end
  if located[text] then
    return located[text]
  end
  local file, line = position()
  local own = match(text, '^sidecar:%d+: (.*)$')
  if own then
    return { text = own, file = file, line = line }
  end
  -- The message knows better than the stack: error(text, 2) blames the
  -- caller, and an error that was passed on has left its place already.
  local source, number, said = match(text, '^(.-):(%d+): (.*)$')
  if source and sources[source] then
    return { text = said, file = sources[source], line = tonumber(number) }
  end
  return { text = text, file = file, line = line }
end

local function protected(func, ...)
  local result = pack(xpcall(func, explain, ...))
  if result[1] then
    return true, result[2]
  end
  local err = result[2]
  if type(err) ~= 'table' then -- no memory to describe it
    err = { text = tostring(err), file = here_file, line = here_line }
  end
  return false, err.text, err.file, err.line
end

-- Limits -------------------------------------------------------------------

local ticks = 0

local function stop(text)
  fatal = fatal or text
  error(fatal, 0)
end

local function check_memory()
  if count_memory 'count' * 1024 > setup.memory then
    count_memory()
    if count_memory 'count' * 1024 > setup.memory then
      stop(NO_MEMORY)
    end
  end
end

local function tick()
  if fatal then
    error(fatal, 0)
  end
  here_file, here_line = position()
  ticks = ticks + 1
  if ticks > setup.ticks then
    stop(setup.too_long)
  end
  check_memory()
end

local function watch(thread)
  sethook(thread, tick, '', setup.tick)
end

-- Behind everything that catches errors: limits can't be caught, nor can an
-- error that is not Lua's own (an interrupt on the Python side).
local function uncaught(ok, err, ...)
  if fatal then
    error(fatal, 0)
  end
  if not ok then
    if err == NO_MEMORY then
      stop(NO_MEMORY)
    end
    if type(err) == 'userdata' and file_type(err) == nil then
      error(err, 0)
    end
  end
  return ok, err, ...
end

function _G.pcall(...)
  return uncaught(pcall(...))
end

-- A handler runs where the error was raised; for one that was raised in a
-- hook, that is a place where no hook would stop it.
function _G.xpcall(func, handle, ...)
  return uncaught(xpcall(func, function(err)
    if fatal then
      return err
    end
    return handle(err)
  end, ...))
end

-- Hooks belong to one coroutine, so each new one gets its own.
function co.create(func)
  local thread = co_create(func)
  watch(thread)
  return thread
end

function co.resume(...)
  return uncaught(co_resume(...))
end

local function unwrap(thread, ok, ...)
  if ok then
    return ...
  end
  if co_close then
    co_close(thread)
  end
  error((...), 0)
end

function co.wrap(func)
  local thread = co.create(func)
  return function(...)
    return unwrap(thread, co.resume(thread, ...))
  end
end

-- No hook runs in a finalizer, so an endless one could not be stopped: none
-- is run. Lua marks a table for it when the metatable is set.
function _G.setmetatable(value, meta)
  local finalizer = type(meta) == 'table' and rawget(meta, '__gc')
  if not finalizer then
    return setmetatable(value, meta)
  end
  rawset(meta, '__gc', nil)
  setmetatable(value, meta)
  rawset(meta, '__gc', finalizer)
  return value
end

-- The host -----------------------------------------------------------------

local function ask(operation, ...)
  check_memory()
  local ok, value = host(operation, ...)
  if not ok then
    error(value, 0)
  end
  return value
end

-- Asks for what has to be told with its line.
local function give(operation, ...)
  local file, line = position()
  return ask(operation, file, line, ...)
end

local function warn(code, text)
  give('warn', code, text)
end

-- A Lua that can be run beside other things ---------------------------------

_G.python = nil
_G.debug = nil
loaded.python = nil
loaded.debug = nil
package.loadlib = nil -- compiled modules are not loaded: KumoMTA does not either
package.cpath = ''
package.searchers = { package.searchers[1] }
package.path = setup.path

function os.exit()
  error('os.exit is refused: a policy must not end the sidecar', 0)
end

function os.setlocale(locale)
  if locale == nil then
    return 'C'
  end
  warn('unsupported-call', 'os.setlocale does nothing here: the locale belongs to the whole process')
  return nil
end

function os.getenv(name)
  return setup.env[name]
end

-- lupa's Lua is built without popen, and its os.execute knows nothing of exit
-- codes. Both run in the policy's environment, for a limited time.
function os.execute(command)
  if command == nil then
    return true
  end
  local result = ask('execute', command)
  if result.code == 0 and result.kind == 'exit' then
    return true, 'exit', 0
  end
  return nil, result.kind, result.code
end

function io.popen(command, mode)
  if mode ~= nil and mode ~= 'r' then
    error("io.popen can only read here (mode 'r')", 0)
  end
  return open_file(ask('popen', command), 'rb')
end

local function log(level)
  return function(...)
    local words = pack(...)
    for i = 1, words.n do
      words[i] = tostring(words[i])
    end
    give('log', level, concat(words, ' '))
  end
end

_G.print = log 'info'

-- Only source text: byte code could break the interpreter itself.
function _G.load(chunk, name, _, ...)
  local func, err = load(chunk, name, 't', ...)
  uncaught(func ~= nil, err)
  return func, err
end

local function read(name)
  local file, err = open_file(name, 'rb')
  if not file then
    return nil, err
  end
  local text = file:read 'a'
  file:close()
  if not text then
    return nil, name .. ': cannot be read (is it a directory?)'
  end
  ask('file', name)
  return text
end

local function load_file(name, ...)
  local text, err = read(name)
  if not text then
    return nil, err
  end
  local func
  func, err = load(text, '@' .. name, 't', ...)
  if not func then
    local line, said = match(err, '^.-:(%d+): (.*)$')
    if line then -- with the whole name, which Lua shortens
      err = name .. ':' .. line .. ': ' .. said
      located[err] = { text = said, file = name, line = tonumber(line) }
    end
  else
    sources[getinfo(func, 'S').short_src] = name
  end
  return func, err
end

function _G.loadfile(name, _, ...)
  return load_file(name, ...)
end

function _G.dofile(name)
  local func, err = load_file(name)
  if not func then
    error(err, 0)
  end
  return func()
end

-- Tables that stand for what is not there ----------------------------------

-- Calling anything in it warns and gives nil, so a policy that only sets up
-- what the sidecar has no use for still loads.
local function absent(name)
  return setmetatable({}, {
    __index = function(_, key)
      if type(key) == 'string' then
        return absent(name .. '.' .. key)
      end
    end,
    __call = function()
      give('unsupported', name)
      return nil
    end,
    __tostring = function()
      return name
    end,
  })
end

local function module(name, functions)
  return setmetatable(functions, {
    __index = function(_, key)
      if type(key) == 'string' then
        return absent(name .. '.' .. key)
      end
    end,
  })
end

local function asking(operation)
  return function(...)
    return ask(operation, ...)
  end
end

local function giving(operation)
  return function(...)
    return give(operation, ...)
  end
end

-- kumo -----------------------------------------------------------------------

local handlers = {}
local shapings = setmetatable({}, { __mode = 'k' }) -- what load returned: id, ttl

local function nothing()
  return {}
end

local shaping_methods = module('shaping', {
  -- The sidecar reports what is wrong with the files itself, with their lines.
  get_errors = nothing,
  get_warnings = nothing,
})

local shaping = module('kumo.shaping', {
  load = function(paths, options)
    local id = give('shaping', paths, options)
    local object = setmetatable({}, {
      __index = shaping_methods,
      __tostring = function()
        return 'Shaping'
      end,
    })
    shapings[object] = { id = id }
    return object
  end,
})

local function remember(ttl, first, ...)
  local known = first ~= nil and shapings[first]
  if known then
    known.ttl = ttl
  end
  return first, ...
end

local kumo = module('kumo', {
  version = setup.version,
  shaping = shaping,
  log_error = log 'error',
  log_warn = log 'warn',
  log_info = log 'info',
  log_debug = log 'debug',
  glob = asking 'glob',
  uncached_glob = asking 'glob',
  read_dir = asking 'read_dir',
  fs = module('kumo.fs', {
    glob = asking 'glob',
    uncached_glob = asking 'glob',
    read_dir = asking 'read_dir',
  }),
})

local events = { tsa_init = true, tsa_load_shaping_data = true }

function kumo.on(name, func)
  if type(name) ~= 'string' or type(func) ~= 'function' then
    error("kumo.on takes an event's name and a function", 0)
  end
  if handler then
    error("kumo.on('" .. name .. "', ...) inside an event handler: KumoMTA wants it outside", 0)
  end
  local earlier = handlers[name]
  if earlier and events[name] then
    local at = tostring(earlier.file) .. ':' .. tostring(earlier.line)
    error('the event ' .. name .. ' already has a handler, at ' .. at, 0)
  end
  if not events[name] then
    give('unknown_event', name)
  end
  local file, line = position()
  handlers[name] = { func = func, file = file, line = line }
end

-- Every call goes through: a policy is run once a load, so there is nothing
-- to remember. Only the ttl counts.
function kumo.memoize(func, params)
  if type(func) ~= 'function' then
    error('kumo.memoize takes a function and a table', 0)
  end
  local ttl = ask('memoize', params)
  return function(...)
    return remember(ttl, func(...))
  end
end

local serde = {}
for _, name in ipairs(setup.serde) do
  serde[name] = asking(name)
  if not find(name, 'yaml') and not find(name, 'compact') then
    kumo[name] = serde[name] -- the older spelling
  end
end
kumo.serde = module('kumo.serde', serde)

local strings = {}
for _, name in ipairs(setup.strings) do
  strings[name] = asking('string_' .. name)
end
kumo.string = module('kumo.string', strings)

local dns = { load_resolv_conf = asking 'load_resolv_conf' }
for _, name in ipairs(setup.dns) do
  dns[name] = giving(name)
end
kumo.dns = module('kumo.dns', dns)

-- tsa and sidecar ------------------------------------------------------------

local tsa = module('tsa', {
  start_http_listener = giving 'start_http_listener',
  configure_tsa_db_path = giving 'configure_tsa_db_path',
})

local sidecar = {
  version = setup.sidecar_version,
  configure = giving 'configure',
}

loaded.kumo = kumo
loaded.tsa = tsa
loaded.sidecar = sidecar
loaded.redis = absent 'redis'
loaded.sqlite = absent 'sqlite'

-- Modules of one's own, by package.path; their errors name their own lines.
package.searchers[2] = function(name)
  local file, err = search_path(name, package.path)
  if not file then
    if find(name, '^policy%-extras%.') then
      warn('no-module', "KumoMTA's module " .. name .. ' is not installed here; its functions do nothing')
      return function()
        return absent(name)
      end
    end
    return err
  end
  local func
  func, err = load_file(file)
  if not func then
    error(err, 0)
  end
  return func, file
end

-- What Python calls ------------------------------------------------------------

local function run_policy()
  local func, err = load_file(setup.policy)
  if not func then
    error(err, 0)
  end
  func()
end

local function fire(name)
  handler = handlers[name]
  if not handler then
    return nil, false
  end
  _G._KUMO_CURRENT_EVENT = name
  local result = handler.func()
  handler = nil
  return result, true
end

local function load_shaping()
  local result, was_defined = fire 'tsa_load_shaping_data'
  if not was_defined then
    return
  end
  local known = result ~= nil and shapings[result]
  if not known then
    local where = handlers.tsa_load_shaping_data
    local text = 'the handler of tsa_load_shaping_data must return what kumo.shaping.load returned'
    located[text] = { text = text, file = where.file, line = where.line }
    error(text, 0)
  end
  ask('use_shaping', known.id, known.ttl)
end

watch(coroutine.running())

return {
  run = function()
    return protected(run_policy)
  end,
  load_shaping = function()
    return protected(load_shaping)
  end,
  init = function()
    return protected(fire, 'tsa_init')
  end,
}
