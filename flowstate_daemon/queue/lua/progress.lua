-- Sets the progress of a job.
--
-- KEYS[1] <id> (hash)
--
-- ARGV[1] progress, JSON
-- ARGV[2] channel progress
-- ARGV[3] event
--
-- Returns 1 done; 0 no such job
-- Publishes progress: {"jobId","progress"}
-- Agrees with updateProgress of Bull 4

if redis.call("TYPE", KEYS[1]).ok ~= "hash" then
  return 0
end
redis.call("HSET", KEYS[1], "progress", ARGV[1])
redis.call("PUBLISH", ARGV[2], ARGV[3])
return 1
