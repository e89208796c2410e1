-- Say that the lease's memory is in use now: phase reserved -> active. Idempotent.
--
-- `used_mb` is what the loaded model was measured to use; '' stands for all of the lease's memory.
--
-- KEYS: capacity, leases, waiters, epoch, events
-- ARGV: lease_id, owner, fence, used_mb
-- Returns:
--   ok
--   yield                     committed, and asked to yield meanwhile
--   lost

local lease_id, owner, fence, used_mb = unpack(ARGV)
fence = whole('fence', fence, 1, MAX_MS)
used_mb = used_mb ~= '' and whole('used_mb', used_mb, 0, MAX_MB)

local lease = sweep()[lease_id]
if not holds(lease, owner, fence) then return {'lost'} end

used_mb = used_mb or lease.vram_mb
if lease.used_mb ~= used_mb then -- a measurement taken before now does not count this memory as the lease's
  lease.used_mb, lease.loaded_at_ms = used_mb, NOW
end
lease.idle_since_ms = NOW
if lease.phase == 'reserved' then
  lease.phase = 'active'
  record('committed', lease_id, lease)
end
save(lease_id, lease)
return {answer(lease)}
