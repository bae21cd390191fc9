-- Renews the locks of all jobs in flight.
--
-- KEYS[1] stalled (set)
-- then <id>:lock (string) of each job
--
-- ARGV[1] token of the worker
-- ARGV[2] lock duration, ms
-- then the id of each job
--
-- Returns the ids whose lock is missing or held by another worker
-- Publishes nothing
-- Agrees with extendLock of Bull 4

local token, lock_ms = ARGV[1], ARGV[2]
local lost, renewed = {}, {}

for i, holder in ipairs(redis.call("MGET", unpack(KEYS, 2))) do
  local id = ARGV[i + 2]
  if holder == token then
    redis.call("PEXPIRE", KEYS[i + 1], lock_ms)
    renewed[#renewed + 1] = id
  else
    lost[#lost + 1] = id
  end
end
if #renewed > 0 then
  redis.call("SREM", KEYS[1], unpack(renewed))
end
return lost
