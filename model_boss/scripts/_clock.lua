-- Who answers, and when: the only two facts that the scripts take from outside the keys.
-- Composed before every script; the tests compose another text here to turn the clock themselves.

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- The identity of this server process, which no restart and no failover keeps; '' where the
-- account may not run INFO.
local function server_id()
  local info = redis.pcall('INFO', 'server')
  return type(info) == 'string' and string.match(info, 'run_id:(%w+)') or ''
end
