-- Sweep what has expired and report one GPU.
--
-- KEYS: capacity, leases, waiters, epoch, events
-- ARGV:
-- Returns:
--   table, now_ms, ledger, lease...
--
-- `ledger` is a JSON object with what is known of: total_mb, margin_mb, used_mb, measured_at_ms,
-- foreign_mb, held_mb, started_at_ms, grace_until_ms, first_fence, fence, ttl_ms, unreadable. Each
-- `lease` is one too, with its `lease_id` and, for a waiter, its `position` from 0.

local live = sweep()
local epoch, capacity = open_epoch(nil) or {}, read_capacity()

local ledger = {held_mb = held_mb(live), foreign_mb = 0}
for _, facts in ipairs({epoch, capacity}) do
  for name, value in pairs(facts) do ledger[name] = value or nil end
end
ledger.unreadable = numbers(EPOCH, {'unreadable'}).unreadable
if epoch.ttl_ms then ledger.foreign_mb = foreign_mb(capacity, live, epoch.ttl_ms, false) end

local reply = {'table', NOW, cjson.encode(ledger)}
for lease_id, lease in pairs(live) do
  lease.lease_id = lease_id
  lease.position = redis.call('ZRANK', WAITERS, lease_id) or nil
  reply[#reply + 1] = cjson.encode(lease)
end
return reply
