-- Returns how many waiting jobs are at least as urgent as a given priority, and the epoch of the store.
--
-- KEYS[1] priority (zset)
-- KEYS[2] flowstate:epoch (string)
--
-- ARGV[1] priority, 1 = most urgent
-- ARGV[2] id of a new epoch, used when there is none
--
-- Returns {waiting jobs, epoch}
-- Publishes nothing
-- Agrees with no script of Bull 4

-- @include store_epoch

return {redis.call("ZCOUNT", KEYS[1], 1, ARGV[1]), store_epoch(KEYS[2], ARGV[2])}
