-- Resumes the queue for all workers.
--
-- KEYS[1] paused (list)
-- KEYS[2] wait (list)
-- KEYS[3] meta-paused (string)
-- KEYS[4] meta (hash)
-- KEYS[5] priority (zset)
--
-- ARGV[1] channel resumed
--
-- Returns 1 resumed; 0 it was not paused; -1 wait or paused is not a list, nothing was changed
-- Publishes resumed: "resumed"
-- Agrees with pause of Bull 4, but merges the lists where Bull overwrites one of them

-- @include merge_lists

if not are_lists(KEYS[1], KEYS[2]) then
  return -1
end
local before = redis.call("EXISTS", KEYS[3])
merge_lists(KEYS[1], KEYS[2], KEYS[1], KEYS[5])
redis.call("DEL", KEYS[3])
redis.call("HDEL", KEYS[4], "paused")
redis.call("PUBLISH", ARGV[1], "resumed")
return before
