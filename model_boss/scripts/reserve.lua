-- Set memory aside for a lease, or stand in the queue for it. Idempotent by lease id and holder.
--
-- Granted to the first of the queue alone, by priority, then by ticket, and only if it fits. A
-- first that does not fit asks just enough holders to yield. Asking again keeps a waiter in the
-- queue.
--
-- Several processes of one owner may ask for one lease; `holder` is the name of the one that asks.
-- While the lease's holder is heard of, the others are told `held`, and the holder hears that they
-- asked. Where it missed two heartbeats, or handed the lease over, the next that asks follows it:
-- under a new fence, with the same memory, which is free at no moment. In the grace nobody follows:
-- who holds may have been forgotten. The size and priority that the first of them claimed stand for
-- all.
--
-- KEYS: capacity, leases, waiters, epoch, events
-- ARGV: lease_id, owner, holder, model, vram_mb, priority, ttl_ms
-- Returns:
--   granted, fence, phase, used_mb, vram_mb, total_mb, margin_mb
--   held, holder, fence
--   waiting, position, reason (grace, queue or memory)
--   conflict                  the id is another owner's, or without a holder another claim's
--   too_large, room_mb        more than this GPU can ever give
--   full, most                so many hold or wait already
--   unknown_capacity          nobody has said how much memory this GPU has
--   ttl_mismatch, ttl_ms      this ledger runs with another time to live

local lease_id, owner, holder, model, vram_mb, priority, ttl_ms = unpack(ARGV)
vram_mb, priority = whole('vram_mb', vram_mb, 1, MAX_MB), whole('priority', priority, 0, MAX_PRIORITY)
ttl_ms = whole('ttl_ms', ttl_ms, 1, MAX_TTL_MS)
check_names({lease_id = lease_id, owner = owner, holder = holder, model = model})

local function idle(lease, epoch)
  return lease.phase == 'active' and NOW - lease.idle_since_ms >= epoch.ttl_ms
end

-- The holders that this request may ask: idle first, then lowest priority, then largest. Not the
-- one beside which it is to be: 'a/2' is a share beside 'a'.
local function candidates(live, epoch)
  local found = {}
  for id, lease in pairs(live) do
    local is_beside = string.sub(lease_id, 1, #id + 1) == id .. '/'
    if not is_beside and (lease.phase == 'active' or lease.phase == 'reserved') then
      local is_idle = idle(lease, epoch)
      if is_idle or lease.priority < priority then
        found[#found + 1] = {id = id, lease = lease, rank = is_idle and 0 or 1}
      end
    end
  end
  table.sort(found, function(a, b)
    if a.rank ~= b.rank then return a.rank < b.rank end
    if a.lease.priority ~= b.lease.priority then return a.lease.priority < b.lease.priority end
    if a.lease.vram_mb ~= b.lease.vram_mb then return a.lease.vram_mb > b.lease.vram_mb end
    return a.id < b.id
  end)
  return found
end

-- Ask just enough of them, none if all of them are not enough.
local function ask_to_yield(live, epoch, missing_mb)
  for _, lease in pairs(live) do
    if lease.phase == 'yielding' then missing_mb = missing_mb - lease.vram_mb end
  end
  local asked = {}
  for _, candidate in ipairs(candidates(live, epoch)) do
    if missing_mb <= 0 then break end
    asked[#asked + 1] = candidate
    missing_mb = missing_mb - candidate.lease.vram_mb
  end
  if missing_mb > 0 then return end
  for i = #asked, 1, -1 do
    local lease = asked[i].lease
    if missing_mb + lease.vram_mb <= 0 then
      missing_mb = missing_mb + lease.vram_mb -- those asked after it are enough
    else
      lease.phase = 'yielding'
      save(asked[i].id, lease)
      record('yield-asked', asked[i].id, lease)
    end
  end
end

local function granted(lease, capacity)
  local total_mb, margin_mb = capacity.total_mb or 0, capacity.margin_mb or 0
  return {'granted', lease.fence, lease.phase, committed_mb(lease), lease.vram_mb, total_mb, margin_mb}
end

local live = sweep()
local epoch = open_epoch(ttl_ms)
local lease, capacity, in_grace = live[lease_id], read_capacity(), NOW < epoch.grace_until_ms
if lease then
  local is_other = holder == '' and (lease.vram_mb ~= vram_mb or lease.priority ~= priority)
  if lease.owner ~= owner or is_other then return {'conflict'} end
  vram_mb, priority = lease.vram_mb, lease.priority
end
local is_held = lease and lease.phase ~= 'waiting'
if is_held and lease.holder ~= holder and (in_grace or NOW < lease.follow_at_ms) then
  lease.wanted_until_ms = NOW + math.min(ttl_ms, epoch.ttl_ms)
  save(lease_id, lease)
  return {'held', lease.holder, lease.fence}
end
if not same_ttl(epoch, ttl_ms, live) then return {'ttl_mismatch', epoch.ttl_ms} end
if is_held then
  if in_grace then return {'waiting', 0, 'grace'} end
  if lease.holder ~= holder then
    lease.holder, lease.model, lease.wanted_until_ms = holder, model, nil
    lease.fence = redis.call('HINCRBY', EPOCH, 'fence', 1)
    record('handed-over', lease_id, lease)
  end
  extend(lease, ttl_ms)
  save(lease_id, lease)
  return granted(lease, capacity)
end

if not capacity.total_mb and not in_grace then
  drop(lease_id)
  return {'unknown_capacity'}
end
local room_mb = (capacity.total_mb or 0) - (capacity.margin_mb or 0)
if capacity.total_mb and vram_mb > room_mb then
  drop(lease_id)
  return {'too_large', room_mb}
end

if not lease then
  if count(live) >= MAX_LEASES then return {'full', MAX_LEASES} end
  lease = {owner = owner, vram_mb = vram_mb, priority = priority, phase = 'waiting', fence = 0}
  local ticket = (numbers(EPOCH, {'ticket'}).ticket or 0) + 1
  redis.call('HSET', EPOCH, 'ticket', string.format('%.0f', ticket))
  redis.call('ZADD', WAITERS, string.format('%.0f', ticket - priority * MAX_TICKET), lease_id)
  record('waiting', lease_id, lease)
end
lease.model, lease.idle_since_ms, lease.expires_at_ms = model, NOW, NOW + ttl_ms
save(lease_id, lease)
if in_grace then return {'waiting', redis.call('ZRANK', WAITERS, lease_id), 'grace'} end

local position = redis.call('ZRANK', WAITERS, lease_id)
if position > 0 then return {'waiting', position, 'queue'} end

local needed_mb = held_mb(live) + vram_mb
if needed_mb + foreign_mb(capacity, live, ttl_ms, false) > room_mb then
  ask_to_yield(live, epoch, needed_mb + foreign_mb(capacity, live, ttl_ms, true) - room_mb)
  return {'waiting', position, 'memory'}
end

redis.call('ZREM', WAITERS, lease_id)
lease.phase, lease.holder, lease.fence = 'reserved', holder, redis.call('HINCRBY', EPOCH, 'fence', 1)
extend(lease, ttl_ms)
save(lease_id, lease)
record('granted', lease_id, lease)
return granted(lease, capacity)
