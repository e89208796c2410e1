-- Give the memory back: it is unloaded, and the first of the queue finds it free. Under fence 0,
-- which is a waiter's: leave the queue.
--
-- KEYS: capacity, leases, waiters, epoch, events
-- ARGV: lease_id, owner, fence
-- Returns:
--   ok
--   lost                      not held under this fence, or granted meanwhile: then release that

local lease_id, owner, fence = unpack(ARGV)
fence = whole('fence', fence, 0, MAX_MS)

local lease = sweep()[lease_id]
if not lease or lease.owner ~= owner or lease.fence ~= fence then return {'lost'} end

drop(lease_id)
record(fence == 0 and 'cancelled' or 'released', lease_id, lease)
return {'ok'}
