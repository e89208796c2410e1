-- Give the memory back: it is unloaded, and the first of the queue finds it free. Under fence 0,
-- which is a waiter's: leave the queue.
--
-- `heir` is another lease of the same owner, or ''. It takes the memory over, which is free at no
-- moment; its holder hears of it with its next `renew`. Where nobody holds that one, it is free. As
-- much of it counts as in use as was committed.
--
-- KEYS: capacity, leases, waiters, epoch, events
-- ARGV: lease_id, owner, fence, heir
-- Returns:
--   ok
--   lost                      not held under this fence, or granted meanwhile: then release that

local lease_id, owner, fence, heir = unpack(ARGV)
fence = whole('fence', fence, 0, MAX_MS)

local live = sweep()
local lease, other = live[lease_id], live[heir]
if not lease or lease.owner ~= owner or lease.fence ~= fence then return {'lost'} end

if fence > 0 and heir ~= lease_id and other and other.phase ~= 'waiting' and other.owner == owner then
  other.vram_mb = other.vram_mb + lease.vram_mb
  other.inherited_mb = (other.inherited_mb or 0) + lease.vram_mb
  if other.used_mb then other.used_mb, other.loaded_at_ms = other.used_mb + (lease.used_mb or 0), NOW end
  save(heir, other)
  record('resized', heir, other)
end
drop(lease_id)
record(fence == 0 and 'cancelled' or 'released', lease_id, lease)
return {'ok'}
