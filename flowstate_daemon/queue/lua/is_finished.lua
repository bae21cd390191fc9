-- Returns whether a job has finished, and its result: what Bull's finished() reads, in one call.
--
-- KEYS[1] completed (zset)
-- KEYS[2] failed (zset)
-- KEYS[3] <id> (hash)
--
-- ARGV[1] id
--
-- Returns {state, returnvalue, failedReason}; state is "completed", "failed", "gone" (no such job) or "" (not finished)
-- Publishes nothing
-- Agrees with isFinished of Bull 4, which does not know "gone"

local id = ARGV[1]
local state = ""

if redis.call("ZSCORE", KEYS[1], id) then
  state = "completed"
elseif redis.call("ZSCORE", KEYS[2], id) then
  state = "failed"
end
if redis.call("TYPE", KEYS[3]).ok ~= "hash" then
  return {state == "" and "gone" or state, false, false}
end
local found = redis.call("HMGET", KEYS[3], "returnvalue", "failedReason")
return {state, found[1], found[2]}
