-- Deletes the oldest failed jobs that the retention policy does not keep, in batches.
--
-- KEYS[1] failed (zset)
-- KEYS[2] priority (zset)
-- KEYS[3] stalled (set)
-- KEYS[4] limiter:index (hash)
--
-- ARGV[1] prefix of all keys of the queue
-- ARGV[2] latest finish time of a job to delete, ms; "" = any age is kept
-- ARGV[3] how many jobs to keep; -1 = all
-- ARGV[4] maximum number of jobs to delete
--
-- Returns the number of deleted jobs
-- Publishes nothing
-- Agrees with the trimming of moveToFinished of Bull 4, which only runs when another job fails; deletes what clean does

-- @include delete_job

local base, keep, limit = ARGV[1], tonumber(ARGV[3]), tonumber(ARGV[4])
if redis.call("TYPE", KEYS[1]).ok ~= "zset" then
  return 0
end

local ids = {}
if ARGV[2] ~= "" then
  ids = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", ARGV[2], "LIMIT", 0, limit)
end
local excess = keep >= 0 and math.min(redis.call("ZCARD", KEYS[1]) - keep, limit) or 0
if excess > #ids then -- both begin with the oldest job
  ids = redis.call("ZRANGE", KEYS[1], 0, excess - 1)
end
for _, id in ipairs(ids) do
  redis.call("ZREM", KEYS[1], id)
  delete_job(base, KEYS[2], KEYS[3], KEYS[4], id, true)
end
return #ids
