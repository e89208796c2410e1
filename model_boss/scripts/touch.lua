-- Say that the lease is in use: one that nobody touched for a time to live counts as idle.
--
-- KEYS: capacity, leases, waiters, epoch, events
-- ARGV: lease_id, owner, fence
-- Returns:
--   ok
--   yield                     somebody asks for the memory
--   lost

local lease_id, owner, fence = unpack(ARGV)
fence = whole('fence', fence, 1, MOST_MS)

local lease = sweep()[lease_id]
if not holds(lease, owner, fence) then return {'lost'} end

lease.idle_since_ms = NOW
save(lease_id, lease)
return {answer(lease)}
