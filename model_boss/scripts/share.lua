-- Say that one of the processes that share a lease is at work with it, or is done.
--
-- Who is at work says so with every heartbeat, and counts for one time to live of the ledger. Whoever is new
-- to a lease that yields is not counted. In the grace of a new epoch everybody is: who seems new there may
-- have been forgotten. The lease lasts no longer for this.
--
-- Who is done where no other counts ends the lease: it yields from then on, so that nobody joins, and this one
-- counts while it unloads, as if at work. So of all who are done only one is told 0; if it crashes, the next
-- that asks a time to live later.
--
-- KEYS: capacity, leases, waiters, epoch, events
-- ARGV: lease_id, owner, fence, sharer, is_here
-- Returns:
--   ok, others                how many sharers count besides this one
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

local counts = others == 0
if is_here then
  counts = sharers[sharer] or lease.phase ~= 'yielding' or NOW < epoch.grace_until_ms
elseif counts and lease.phase ~= 'yielding' then
  lease.phase = 'yielding'
  record('yield-asked', lease_id, lease)
end
sharers[sharer] = counts and NOW + epoch.ttl_ms or nil
lease.sharers = next(sharers) and sharers
save(lease_id, lease)
return {answer(lease), others}
