-- Gives another run to the oldest failed jobs, up to a number.
--
-- KEYS[1] failed (zset)
-- KEYS[2] wait (list)
-- KEYS[3] paused (list)
-- KEYS[4] meta-paused (string)
-- KEYS[5] priority (zset)
--
-- ARGV[1] what all keys of the queue start with
-- ARGV[2] latest end of a job to retry, ms: those that fail again meanwhile stay
-- ARGV[3] how many of the oldest to pass over
-- ARGV[4] how many to look at
-- ARGV[5] now, ms
-- ARGV[6] channel waiting@token
--
-- Returns {number looked at, number retried}; the others, locked or without a hash, stay
-- Publishes waiting@token: id, for each
-- Agrees with retryJobs of Bull 4, with the differences told in retry_failed, and it does publish

-- @include add_to_wait
-- @include retry_job

local base, latest, skip, count = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local target = target_list(KEYS[4], KEYS[2], KEYS[3])
local ids = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", latest, "LIMIT", skip, count)
local retried = 0

for _, id in ipairs(ids) do
  if retry_job(KEYS[1], target, KEYS[5], base, id, ARGV[5], ARGV[6]) == 1 then
    retried = retried + 1
  end
end
return {#ids, retried}
