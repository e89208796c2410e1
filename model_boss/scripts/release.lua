-- Give the memory back: it is unloaded, and the first of the queue finds it free.
--
-- KEYS: capacity, leases, waiters, epoch, events
-- ARGV: lease_id, owner, fence
-- Returns:
--   ok
--   lost

local lease_id, owner, fence = unpack(ARGV)
fence = whole('fence', fence, 1, MAX_MS)

local lease = sweep()[lease_id]
if not holds(lease, owner, fence) then return {'lost'} end

drop(lease_id)
record('released', lease_id, lease)
return {'ok'}
