-- Say how much memory the GPU has, and how much of it was measured to be in use by everybody.
--
-- By hand (`measured` = 0) the total and the margin are set. Whoever measures (`measured` = 1) sets
-- them only where nobody has, so that a limit set by hand stays. `used_mb` is '' where nothing was
-- measured; `measured_at_ms` is the ledger's time, from an answer received before the measurement
-- began.
--
-- KEYS: capacity, leases, waiters, epoch, events
-- ARGV: total_mb, margin_mb, measured, used_mb, measured_at_ms
-- Returns:
--   ok, total_mb, margin_mb

local total_mb, margin_mb, measured, used_mb, measured_at_ms = unpack(ARGV)
total_mb, margin_mb = whole('total_mb', total_mb, 1, MAX_MB), whole('margin_mb', margin_mb, 0, MAX_MB)
used_mb = used_mb ~= '' and whole('used_mb', used_mb, 0, MAX_MB)
measured_at_ms = used_mb and whole('measured_at_ms', measured_at_ms, 0, MAX_MS)

local capacity = read_capacity()
if measured == '0' or not capacity.total_mb then
  capacity.total_mb, capacity.margin_mb = total_mb, margin_mb
  redis.call('HSET', CAPACITY, 'total_mb', total_mb, 'margin_mb', margin_mb)
end
if used_mb and measured_at_ms >= (capacity.measured_at_ms or 0) then
  redis.call('HSET', CAPACITY, 'used_mb', used_mb, 'measured_at_ms', string.format('%.0f', measured_at_ms))
end
sweep()
return {'ok', capacity.total_mb, capacity.margin_mb}
