-- What every script shares, composed before it by the client (Redis 6.2 has no libraries of
-- functions). Expired leases are swept by the same text whichever script is called, so that no
-- caller ever decides over a lease that has ended.
--
-- A lease is a JSON object in the hash LEASES; a waiter is a lease in phase 'waiting' that stands
-- in WAITERS too. Both end at `expires_at_ms` unless somebody speaks for them.

local CAPACITY, LEASES, WAITERS, EPOCH, EVENTS = unpack(KEYS)
local NOW = now_ms()
local EVENTS_KEPT = 1000
local MAX_MB, MAX_PRIORITY, MAX_TTL_MS, MAX_MS = 2 ^ 31, 1000, 3600000, 2 ^ 46

-- Read a whole number out of ARGV before anything is written: a negative size would break the sum.
local function whole(name, text, least, most)
  local value = tonumber(text)
  if not value or value % 1 ~= 0 or value < least or value > most then error('invalid argument ' .. name) end
  return value
end

local function record(event, lease_id, lease)
  redis.call('XADD', EVENTS, 'MAXLEN', '~', EVENTS_KEPT, '*', 'event', event, 'lease', lease_id,
    'owner', lease.owner, 'vram_mb', lease.vram_mb, 'fence', string.format('%.0f', lease.fence),
    'at_ms', string.format('%.0f', NOW))
end

local function save(lease_id, lease)
  redis.call('HSET', LEASES, lease_id, cjson.encode(lease))
end

local function drop(lease_id)
  redis.call('HDEL', LEASES, lease_id)
  redis.call('ZREM', WAITERS, lease_id)
end

-- Forget what has expired; return the rest, lease id -> lease, waiters included.
local function sweep()
  local live, flat = {}, redis.call('HGETALL', LEASES)
  for i = 1, #flat, 2 do
    local lease_id, lease = flat[i], cjson.decode(flat[i + 1])
    if lease.expires_at_ms > NOW then
      live[lease_id] = lease
    else
      drop(lease_id)
      record('expired', lease_id, lease)
    end
  end
  return live
end

local function numbers(key, fields)
  local values, result = redis.call('HMGET', key, unpack(fields)), {}
  for i, field in ipairs(fields) do
    result[field] = values[i] and tonumber(values[i])
  end
  return result
end

-- Read the epoch; begin one where there is none, or where another server process answers than the
-- one that began it: that one may have taken the last grants with it. Returns nil where none is and
-- `ttl_ms` is not known.
local function open_epoch(ttl_ms)
  local epoch = numbers(EPOCH, {'started_at_ms', 'grace_until_ms', 'first_fence', 'fence', 'ttl_ms'})
  local began_on, server = redis.call('HGET', EPOCH, 'server'), server_id()
  if epoch.started_at_ms and (server == '' or server == began_on) then return epoch end
  if epoch.started_at_ms and began_on == '' then
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
  return numbers(CAPACITY, {'total_mb', 'margin_mb', 'used_mb', 'measured_at_ms'})
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
