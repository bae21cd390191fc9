-- Promotes the delayed jobs that are due first, up to a number.
--
-- KEYS[1] delayed (zset)
-- KEYS[2] wait (list)
-- KEYS[3] paused (list)
-- KEYS[4] meta-paused (string)
-- KEYS[5] priority (zset)
--
-- ARGV[1] prefix of all keys of the queue
-- ARGV[2] how many jobs to examine
-- ARGV[3] channel waiting@token
--
-- Returns {number examined, number moved}; ids without a hash are removed
-- Publishes waiting@token: id, for each
-- Agrees with promote of Bull 4, job by job

-- @include add_to_wait
-- @include promote_job

local base, count = ARGV[1], tonumber(ARGV[2])
local target = target_list(KEYS[4], KEYS[2], KEYS[3])
local ids = redis.call("ZRANGE", KEYS[1], 0, count - 1)
local moved = 0

for _, id in ipairs(ids) do
  if promote_job(KEYS[1], target, KEYS[5], base, id, ARGV[3]) then
    moved = moved + 1
  end
end
return {#ids, moved}
