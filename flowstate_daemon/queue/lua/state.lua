-- Returns the state of a job.
--
-- KEYS[1] completed (zset)
-- KEYS[2] failed (zset)
-- KEYS[3] delayed (zset)
-- KEYS[4] active (list)
-- KEYS[5] wait (list)
-- KEYS[6] paused (list)
--
-- ARGV[1] id
--
-- Returns the name of the state, or nil
-- Publishes nothing
-- Agrees with getState of Bull 4, which reads whole lists in the client

-- @include state_of

local state = state_of(KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], ARGV[1])
return state or false
