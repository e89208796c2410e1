-- Leave the queue.
--
-- KEYS: capacity, leases, waiters, epoch, events
-- ARGV: lease_id, owner
-- Returns:
--   ok
--   lost                      no such waiter, or it was granted meanwhile: then release it

local lease_id, owner = unpack(ARGV)

local lease = sweep()[lease_id]
if not lease or lease.phase ~= 'waiting' or lease.owner ~= owner then return {'lost'} end

drop(lease_id)
record('cancelled', lease_id, lease)
return {'ok'}
