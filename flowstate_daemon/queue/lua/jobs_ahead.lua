-- Tells how many jobs wait that are at least as urgent as one of a given priority, and what this Redis remembers.
--
-- KEYS[1] priority (zset)
-- KEYS[2] flowstate:epoch (string)
--
-- ARGV[1] priority, 1 = most urgent
-- ARGV[2] a name for the memory, if it has none
--
-- Returns {jobs that wait, name of the memory}
-- Publishes nothing
-- Agrees with nothing of Bull 4, whose producers do not look

-- @include store_epoch

return {redis.call("ZCOUNT", KEYS[1], 1, ARGV[1]), memory_of(KEYS[2], ARGV[2])}
