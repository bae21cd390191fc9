-- Returns one job with all its fields.
--
-- KEYS[1] completed (zset)
-- KEYS[2] failed (zset)
-- KEYS[3] delayed (zset)
-- KEYS[4] active (list)
-- KEYS[5] wait (list)
-- KEYS[6] paused (list)
-- KEYS[7] <id> (hash)
-- KEYS[8] <id>:lock (string)
-- KEYS[9] <id>:logs (list)
--
-- ARGV[1] id
--
-- Returns {state or "", score or "", locked, log rows, {field, value, …}}
-- Publishes nothing
-- Agrees with getJob and getState of Bull 4

-- @include state_of
-- @include job_details

local state, score = state_of(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], ARGV[1])
local locked, rows, fields = job_details(KEYS[7], KEYS[8], KEYS[9])
return {state or "", score or "", locked, rows, fields}
