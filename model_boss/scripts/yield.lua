-- Ask a holder for its memory, whatever its priority; it hears so at its next call.
--
-- KEYS: capacity, leases, waiters, epoch, events
-- ARGV: lease_id
-- Returns:
--   ok
--   lost                      nobody holds a lease of this id

local lease_id = unpack(ARGV)

local lease = sweep()[lease_id]
if not lease or lease.phase == 'waiting' then return {'lost'} end

if lease.phase ~= 'yielding' then
  lease.phase = 'yielding'
  save(lease_id, lease)
  record('yield-asked', lease_id, lease)
end
return {'ok'}
