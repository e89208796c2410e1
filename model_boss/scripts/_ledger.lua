-- What every script shares, composed before it by the client (Redis 6.2 has no libraries of
-- functions). Expired leases are swept by the same text whichever script is called, so that no
-- caller ever decides over a lease that has ended.
--
-- A lease is a JSON object in the hash LEASES; a waiter is a lease in phase 'waiting' that stands
-- in WAITERS too. Both end at `expires_at_ms` unless somebody speaks for them.
--
-- Whoever may write to Redis may write anything here. What no script can have written is removed
-- and counted (`forget`), so that it stops nobody; what could be a lease is believed.

local CAPACITY, LEASES, WAITERS, EPOCH, EVENTS = unpack(KEYS)
local NOW = now_ms()
local EVENTS_KEPT = 1000
local MAX_MB, MAX_PRIORITY, MAX_TTL_MS, MAX_MS = 2 ^ 31, 1000, 3600000, 2 ^ 46
local MAX_TICKET = 2 ^ 40
local MAX_NAME_BYTES, MAX_LEASE_BYTES = 200, 8192
local MAX_LEASES = 256 -- waiters included; every call reads all of them

local function is_whole(value, least, most)
  return type(value) == 'number' and value % 1 == 0 and value >= least and value <= most
end

-- Read a whole number out of ARGV before anything is written: a negative size would break the sum.
local function whole(name, text, least, most)
  local value = tonumber(text)
  if not is_whole(value, least, most) then error('invalid argument ' .. name) end
  return value
end

local function check_names(names)
  for name, text in pairs(names) do
    if #text > MAX_NAME_BYTES then error('invalid argument ' .. name) end
  end
end

local function record(event, lease_id, lease)
  local entry = {EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', event, 'lease', lease_id,
    'owner', lease.owner, 'vram_mb', lease.vram_mb, 'fence', string.format('%.0f', lease.fence),
    'at_ms', string.format('%.0f', NOW)}
  local reply = redis.pcall('XADD', unpack(entry))
  if type(reply) == 'table' and reply.err then -- no stream, or one whose last id leaves no next
    redis.call('UNLINK', EVENTS)
    redis.call('XADD', unpack(entry))
  end
end

-- Count what could not be read and was removed. It may have stood in the place of a holder's lease:
-- the next to open the epoch begins a new one, as if the ledger had lost its memory.
local function forget(what)
  local count = tonumber(redis.call('HGET', EPOCH, 'unreadable') or 0)
  if not is_whole(count, 0, MAX_MS) then count = 0 end
  redis.call('HSET', EPOCH, 'unreadable', string.format('%.0f', count + 1))
  redis.call('HDEL', EPOCH, 'started_at_ms')
  record('unreadable', string.sub(what, 1, MAX_NAME_BYTES), {owner = '', vram_mb = 0, fence = 0})
end

local RANGES = {
  total_mb = {1, MAX_MB}, margin_mb = {0, MAX_MB}, used_mb = {0, MAX_MB}, measured_at_ms = {0, MAX_MS},
  started_at_ms = {0, MAX_MS}, grace_until_ms = {0, MAX_MS}, ttl_ms = {1, MAX_TTL_MS},
  first_fence = {1, MAX_MS / 2}, fence = {1, MAX_MS / 2}, ticket = {0, MAX_TICKET / 2},
  unreadable = {0, MAX_MS},
}

local function numbers(key, fields)
  local values, result = redis.call('HMGET', key, unpack(fields)), {}
  for i, field in ipairs(fields) do
    local text, least, most = values[i], unpack(RANGES[field])
    if text then
      if #text < 16 and string.match(text, '^%d+$') and is_whole(tonumber(text), least, most) then
        result[field] = tonumber(text)
      else
        redis.call('HDEL', key, field)
        forget(field)
      end
    end
  end
  return result
end

local function save(lease_id, lease)
  redis.call('HSET', LEASES, lease_id, cjson.encode(lease))
end

local function drop(lease_id)
  redis.call('HDEL', LEASES, lease_id)
  redis.call('ZREM', WAITERS, lease_id)
end

-- Read a lease as the scripts write it; nil where it is none.
local function read_lease(text, ends_by_ms)
  if #text > MAX_LEASE_BYTES then return nil end
  local is_json, lease = pcall(cjson.decode, text)
  if not is_json or type(lease) ~= 'table' then return nil end
  local waits = lease.phase == 'waiting'
  local is_held = lease.phase == 'reserved' or lease.phase == 'active' or lease.phase == 'yielding'
  local function has(field, least, most) return is_whole(lease[field], least, most) end
  local function may_have(field, most) return lease[field] == nil or has(field, 0, most) end
  local is_lease = (waits or is_held) and type(lease.owner) == 'string' and type(lease.model) == 'string'
    and has('vram_mb', 1, MAX_MB) and has('priority', 0, MAX_PRIORITY)
    and has('expires_at_ms', 0, ends_by_ms) and has('idle_since_ms', 0, MAX_MS)
    and has('fence', waits and 0 or 1, waits and 0 or MAX_MS / 2)
    and (waits or type(lease.holder) == 'string' and has('follow_at_ms', 0, ends_by_ms))
    and may_have('inherited_mb', MAX_MB) and may_have('used_mb', MAX_MB) and may_have('loaded_at_ms', MAX_MS)
    and (lease.used_mb == nil) == (lease.loaded_at_ms == nil) and may_have('wanted_until_ms', ends_by_ms)
  return is_lease and lease or nil
end

-- Remove keys of another kind, and those with more in them than the scripts ever put there.
local function forget_strangers()
  for _, known in ipairs({{EPOCH, 'hash'}, {CAPACITY, 'hash'}, {LEASES, 'hash', 'HLEN'}, {WAITERS, 'zset', 'ZCARD'}}) do
    local key, kind, size = unpack(known)
    local found = redis.call('TYPE', key).ok
    local is_other = found ~= kind and found ~= 'none'
    if is_other or size and redis.call(size, key) > 2 * MAX_LEASES then
      redis.call('UNLINK', key)
      forget(key)
    end
  end
end

-- Whoever waits stands in the queue, and nobody else does.
local function compare_with_queue(live)
  local stands = {}
  for _, lease_id in ipairs(redis.call('ZRANGE', WAITERS, 0, -1)) do
    stands[lease_id] = live[lease_id] and live[lease_id].phase == 'waiting'
    if not stands[lease_id] then
      redis.call('ZREM', WAITERS, lease_id)
      forget(lease_id)
    end
  end
  for lease_id, lease in pairs(live) do
    if lease.phase == 'waiting' and not stands[lease_id] then
      drop(lease_id)
      forget(lease_id)
      live[lease_id] = nil
    end
  end
end

-- Forget what has expired and what is no lease; return the rest, lease id -> lease, waiters
-- included.
local function sweep()
  forget_strangers()
  local ttl_ms = numbers(EPOCH, {'ttl_ms'}).ttl_ms or MAX_TTL_MS
  local live, flat = {}, redis.call('HGETALL', LEASES)
  for i = 1, #flat, 2 do
    local lease_id = flat[i]
    -- Twice, because a replica that takes over may be behind in time.
    local lease = #lease_id <= MAX_NAME_BYTES and read_lease(flat[i + 1], NOW + 2 * ttl_ms)
    if lease and lease.expires_at_ms > NOW then
      live[lease_id] = lease
    else
      drop(lease_id)
      if lease then record('expired', lease_id, lease) else forget(lease_id) end
    end
  end
  compare_with_queue(live)
  return live
end

-- Read the epoch; begin one where there is none, or where another server process answers than the
-- one that began it: that one may have taken the last grants with it. Returns nil where none is and
-- `ttl_ms` is not known.
local function open_epoch(ttl_ms)
  local epoch = numbers(EPOCH, {'started_at_ms', 'grace_until_ms', 'first_fence', 'fence', 'ttl_ms'})
  local began_on, server = redis.call('HGET', EPOCH, 'server'), server_id()
  local is_known = epoch.started_at_ms and epoch.first_fence and epoch.fence and epoch.ttl_ms
    and epoch.grace_until_ms and epoch.grace_until_ms <= NOW + 2 * epoch.ttl_ms
  if is_known and (server == '' or server == began_on) then return epoch end
  if is_known and began_on == '' then
    redis.call('HSET', EPOCH, 'server', server)
    return epoch
  end
  epoch.ttl_ms = epoch.ttl_ms or ttl_ms
  if not epoch.ttl_ms then return nil end
  epoch.started_at_ms = NOW
  epoch.grace_until_ms = NOW + epoch.ttl_ms
  epoch.first_fence = math.max(epoch.fence or 0, NOW)
  epoch.fence = epoch.first_fence
  redis.call('HSET', EPOCH, 'server', server)
  for field, value in pairs(epoch) do
    redis.call('HSET', EPOCH, field, string.format('%.0f', value))
  end
  return epoch
end

-- One time to live for all: a shorter one would make the grace too short for its longer neighbours.
-- It may change while nobody is there. Returns whether `ttl_ms` is the ledger's.
local function same_ttl(epoch, ttl_ms, live)
  if epoch.ttl_ms == ttl_ms then return true end
  if next(live) or NOW < epoch.grace_until_ms then return false end
  redis.call('HSET', EPOCH, 'ttl_ms', ttl_ms)
  epoch.ttl_ms = ttl_ms
  return true
end

local function read_capacity()
  local capacity = numbers(CAPACITY, {'total_mb', 'margin_mb', 'used_mb', 'measured_at_ms'})
  if not capacity.margin_mb then capacity.total_mb = nil end
  -- A measurement from the future would be believed for ever.
  local is_measured = capacity.used_mb and capacity.measured_at_ms and capacity.measured_at_ms <= NOW + 1000
  if not is_measured then capacity.used_mb, capacity.measured_at_ms = nil, nil end
  return capacity
end

local function count(live)
  local sum = 0
  for _ in pairs(live) do sum = sum + 1 end
  return sum
end

local function held_mb(live)
  local sum = 0
  for _, lease in pairs(live) do
    if lease.phase ~= 'waiting' then sum = sum + lease.vram_mb end
  end
  return sum
end

-- Memory that was in use outside the ledger when the GPU was last measured; 0 where that was a time
-- to live ago. A lease accounts for its own memory only if it was loaded before the measurement,
-- unless `at_best`: then each accounts for all that it may use.
local function foreign_mb(capacity, live, ttl_ms, at_best)
  local measured_at_ms = capacity.measured_at_ms
  if not measured_at_ms or NOW - measured_at_ms >= ttl_ms then return 0 end
  local own = 0
  for _, lease in pairs(live) do
    if lease.phase ~= 'waiting' then
      if at_best then
        own = own + lease.vram_mb
      elseif lease.loaded_at_ms and lease.loaded_at_ms < measured_at_ms then
        own = own + math.min(lease.used_mb, lease.vram_mb)
      end
    end
  end
  return math.max(0, capacity.used_mb - own)
end

-- Whether `owner` holds this lease under this very fence.
local function holds(lease, owner, fence)
  return lease and lease.phase ~= 'waiting' and lease.owner == owner and lease.fence == fence
end

-- What is in use of the lease by its holders' word; '' until they commit.
local function committed_mb(lease)
  return lease.used_mb or ''
end

-- Live for one more time to live; after two missed heartbeats (of one every third) another process
-- of the same lease may follow this one.
local function extend(lease, ttl_ms)
  lease.expires_at_ms, lease.follow_at_ms = NOW + ttl_ms, NOW + math.ceil(2 * ttl_ms / 3)
end

local function answer(lease)
  return lease.phase == 'yielding' and 'yield' or 'ok'
end
