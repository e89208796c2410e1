-- Say that one of the processes that share a lease is at work with it, or has left.
--
-- Who is at work says so with every heartbeat, and counts for one time to live of the ledger. The last to
-- leave ends the lease, so that nobody joins between its leaving and its unloading; and whoever is new to a
-- lease that yields is not counted. In the grace of a new epoch everybody is: who seems new there may
-- have been forgotten. The lease lasts no longer for this.
--
-- KEYS: capacity, leases, waiters, epoch, events
-- ARGV: lease_id, owner, fence, sharer, is_here
-- Returns:
--   ok, others                how many sharers are at work besides this one
--   yield, others
--   lost

local lease_id, owner, fence, sharer, is_here = unpack(ARGV)
fence, is_here = whole('fence', fence, 1, MOST_MS), whole('is_here', is_here, 0, 1) == 1

local lease = sweep()[lease_id]
if not holds(lease, owner, fence) then return {'lost'} end

local epoch = open_epoch(nil)
local sharers, others = {}, 0
for id, expires_at_ms in pairs(lease.sharers or {}) do
  if expires_at_ms > NOW then
    sharers[id] = expires_at_ms
    if id ~= sharer then others = others + 1 end
  end
end

if not is_here then
  sharers[sharer] = nil
  if others == 0 and lease.phase ~= 'yielding' then
    lease.phase = 'yielding'
    record('yield-asked', lease_id, lease)
  end
elseif sharers[sharer] or lease.phase ~= 'yielding' or NOW < epoch.grace_until_ms then
  sharers[sharer] = NOW + epoch.ttl_ms
end
lease.sharers = next(sharers) and sharers
save(lease_id, lease)
return {answer(lease), others}
