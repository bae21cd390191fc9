-- Replaces the data of a job. A stored request with the old data is no longer used for it.
--
-- KEYS[1] <id> (hash)
--
-- ARGV[1] data, JSON
--
-- Returns 1 done; 0 no such job
-- Publishes nothing
-- Agrees with updateData of Bull 4

if redis.call("TYPE", KEYS[1]).ok ~= "hash" then
  return 0
end
redis.call("HSET", KEYS[1], "data", ARGV[1])
redis.call("HDEL", KEYS[1], "storedRequest")
return 1
