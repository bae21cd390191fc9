-- Moves the oldest failed jobs that match a filter back to the ready jobs, up to a number.
--
-- KEYS[1] failed (zset)
-- KEYS[2] wait (list)
-- KEYS[3] paused (list)
-- KEYS[4] meta-paused (string)
-- KEYS[5] priority (zset)
--
-- ARGV[1] prefix of all keys of the queue
-- ARGV[2] latest finish time of a job to retry, ms: jobs that fail again later stay
-- ARGV[3] how many of the oldest jobs to skip
-- ARGV[4] how many jobs to examine
-- ARGV[5] now, ms
-- ARGV[6] channel waiting@token
-- ARGV[7] 1 = also jobs whose email may have been sent, else 0
-- ARGV[8] how many jobs to retry at most
-- ARGV[9] filter (see job_filter.lua)
--
-- Returns {number examined, number retried, number left out because the email may have been sent}; the others, locked,
--   without a hash or without a match, stay
-- Publishes waiting@token: id, for each
-- Agrees with retryJobs of Bull 4, with the differences named in retry_job.lua, and it publishes

-- @include add_to_wait
-- @include job_filter
-- @include retry_job

local base, latest, skip, count = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local target = target_list(KEYS[4], KEYS[2], KEYS[3])
local ids = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", latest, "LIMIT", skip, count)
local limit, filter = tonumber(ARGV[8]), read_filter(ARGV[9])
local examined, retried, left_out = 0, 0, 0

for _, id in ipairs(ids) do
  if retried >= limit then
    break
  end
  examined = examined + 1
  if job_matches(filter, base .. id) then
    if ARGV[7] ~= "1" and may_have_been_sent(base, base .. id) then
      left_out = left_out + 1
    elseif retry_job(KEYS[1], target, KEYS[5], base, id, ARGV[5], ARGV[6]) == 1 then
      retried = retried + 1
    end
  end
end
return {examined, retried, left_out}
