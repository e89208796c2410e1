-- Live on for one more time to live; hear whether somebody asks for the memory.
--
-- `in_use` = 1: the lease was used since the last call. One that is not used for a time to live
-- counts as idle. `wanted_ms` of the answer: for so long it counts yet that another process asked
-- for this very lease; 0 where none did.
--
-- In the grace of a new epoch a former holder is admitted again: Redis lost its lease, but the
-- memory is still in use. `holder` and everything after `in_use` is what the holder remembers, and
-- is read only then. `used_mb` is '' until it has committed; `total_mb` and `margin_mb` stand in
-- where the capacity was lost.
--
-- `vram_mb` is the lease's size as the holder knows it, `needs_mb` what it needs now. The lease
-- shrinks to that, or grows where there is room for it, whoever waits: the memory is in use
-- already. It stays as it is where it has changed without the holder's knowing (`release` to an
-- heir). In the grace it does not grow, since others may have been forgotten; and where the ledger
-- is the one that does not know that it shrank, it shrinks again.
--
-- KEYS: capacity, leases, waiters, epoch, events
-- ARGV: lease_id, owner, holder, fence, ttl_ms, in_use,
--       model, vram_mb, priority, phase, used_mb, total_mb, margin_mb, needs_mb
-- Returns:
--   ok, phase, used_mb, wanted_ms, vram_mb
--   yield, phase, used_mb, wanted_ms, vram_mb
--   lost
--   ttl_mismatch, ttl_ms      this ledger runs with another time to live

local lease_id, owner, holder, fence, ttl_ms, in_use,
  model, vram_mb, priority, phase, used_mb, total_mb, margin_mb, needs_mb = unpack(ARGV)
fence, ttl_ms = whole('fence', fence, 1, MAX_MS), whole('ttl_ms', ttl_ms, 1, MAX_TTL_MS)
in_use = whole('in_use', in_use, 0, 1) == 1
vram_mb, priority = whole('vram_mb', vram_mb, 1, MAX_MB), whole('priority', priority, 0, MAX_PRIORITY)
needs_mb = whole('needs_mb', needs_mb, 1, MAX_MB)
used_mb = used_mb ~= '' and whole('used_mb', used_mb, 0, MAX_MB) or nil
total_mb = total_mb ~= '' and whole('total_mb', total_mb, 1, MAX_MB) or nil
margin_mb = total_mb and whole('margin_mb', margin_mb, 0, MAX_MB)
check_names({lease_id = lease_id, owner = owner, holder = holder, model = model})
if phase ~= 'reserved' and phase ~= 'active' and phase ~= 'yielding' then error('invalid argument phase') end

-- A lease of this id that the ledger remembers gives way only to a later one of the same owner.
local function admit_again(live, epoch, known)
  if NOW >= epoch.grace_until_ms or fence > epoch.first_fence then return nil end
  if known and known.owner ~= owner then return nil end
  if known and known.phase ~= 'waiting' and known.fence > fence then return nil end
  local capacity = read_capacity()
  local forgotten = not capacity.total_mb and total_mb
  if forgotten then capacity.total_mb, capacity.margin_mb = total_mb, margin_mb end
  live[lease_id] = nil
  if capacity.total_mb and held_mb(live) + vram_mb > capacity.total_mb - capacity.margin_mb then return nil end
  if forgotten then redis.call('HSET', CAPACITY, 'total_mb', total_mb, 'margin_mb', margin_mb) end
  drop(lease_id)
  local lease = {
    owner = owner, holder = holder, model = model, vram_mb = vram_mb, priority = priority, phase = phase,
    fence = fence, idle_since_ms = NOW, used_mb = used_mb, loaded_at_ms = used_mb and NOW,
  }
  record('readmitted', lease_id, lease)
  return lease
end

-- What it grows by is in use already. What it shrinks by is in use no more, and may have been all
-- that was: to count too much as its own would hide foreign memory.
local function set_size(lease, size_mb)
  if lease.used_mb then
    lease.used_mb, lease.loaded_at_ms = math.max(0, lease.used_mb + size_mb - lease.vram_mb), NOW
  end
  lease.vram_mb = size_mb
  record('resized', lease_id, lease)
end

-- What was inherited counts beside the size that the holder knows, until the holder knows of it.
-- More than both is the size of before a failover: another may have been granted the rest since.
local function compare_sizes(lease, in_grace)
  if lease.vram_mb == vram_mb then lease.inherited_mb = nil end
  local known_mb = vram_mb + (lease.inherited_mb or 0)
  if in_grace and known_mb < lease.vram_mb then set_size(lease, known_mb) end
end

local function resize(lease, live, in_grace)
  if needs_mb == vram_mb or lease.vram_mb ~= vram_mb then return end
  local capacity = read_capacity()
  local room_mb = (capacity.total_mb or 0) - (capacity.margin_mb or 0)
  if needs_mb > vram_mb and (in_grace or held_mb(live) - vram_mb + needs_mb > room_mb) then return end
  set_size(lease, needs_mb)
end

local live = sweep()
local epoch = open_epoch(ttl_ms)
if not same_ttl(epoch, ttl_ms, live) then return {'ttl_mismatch', epoch.ttl_ms} end

local lease = live[lease_id]
if not holds(lease, owner, fence) then
  lease = admit_again(live, epoch, lease)
  if not lease then return {'lost'} end
  live[lease_id] = lease
end
local in_grace = NOW < epoch.grace_until_ms
compare_sizes(lease, in_grace)
resize(lease, live, in_grace)
if in_use then lease.idle_since_ms = NOW end
extend(lease, ttl_ms)
save(lease_id, lease)
local wanted_ms = math.max(0, (lease.wanted_until_ms or 0) - NOW)
return {answer(lease), lease.phase, committed_mb(lease), wanted_ms, lease.vram_mb}
