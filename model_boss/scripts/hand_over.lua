-- Let another process of the same lease follow at once: this one ends. The memory stays set aside
-- meanwhile.
--
-- The next that asks by `reserve` holds the lease under a new fence. If nobody does, the lease
-- expires at its time; whoever handed it over may ask again, too.
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

lease.follow_at_ms = NOW
save(lease_id, lease)
return {'ok'}
