-- Promotes the delayed jobs that match a filter, those due first first, up to a number.
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
-- ARGV[4] how many of the first jobs to skip
-- ARGV[5] how many jobs to promote at most
-- ARGV[6] filter (see job_filter.lua)
--
-- Returns {number examined, number moved, number that stay delayed}; ids without a hash are removed
-- Publishes waiting@token: id, for each
-- Agrees with promote of Bull 4, job by job

-- @include add_to_wait
-- @include job_filter
-- @include promote_job

local base, count = ARGV[1], tonumber(ARGV[2])
local target = target_list(KEYS[4], KEYS[2], KEYS[3])
local skip, limit, filter = tonumber(ARGV[4]), tonumber(ARGV[5]), read_filter(ARGV[6])
local ids = redis.call("ZRANGE", KEYS[1], skip, skip + count - 1)
local examined, moved, stay = 0, 0, 0

for _, id in ipairs(ids) do
  if moved >= limit then
    break
  end
  examined = examined + 1
  if not job_matches(filter, base .. id) then
    stay = stay + 1
  elseif promote_job(KEYS[1], target, KEYS[5], base, id, ARGV[3]) then
    moved = moved + 1
  end
end
return {examined, moved, stay}
