-- Pauses the queue for all workers.
--
-- KEYS[1] wait (list)
-- KEYS[2] paused (list); also the channel
-- KEYS[3] meta-paused (string)
-- KEYS[4] meta (hash)
-- KEYS[5] priority (zset)
--
-- Returns 1 paused; 0 it was paused already; -1 wait or paused is not a list, nothing was changed
-- Publishes paused: "paused"
-- Agrees with pause of Bull 4, but merges the lists where Bull overwrites one of them

-- @include merge_lists

if not are_lists(KEYS[1], KEYS[2]) then
  return -1
end
local before = redis.call("EXISTS", KEYS[3])
merge_lists(KEYS[1], KEYS[2], KEYS[2], KEYS[5])
redis.call("SET", KEYS[3], 1)
redis.call("HSET", KEYS[4], "paused", 1)
redis.call("PUBLISH", KEYS[2], "paused")
return 1 - before
