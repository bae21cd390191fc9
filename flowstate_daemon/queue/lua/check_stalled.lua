-- Bull's stalled check: jobs that were active at the last check and have no lock now are requeued or failed.
--
-- KEYS[1] stalled (set)
-- KEYS[2] wait (list)
-- KEYS[3] active (list)
-- KEYS[4] failed (zset; also the channel)
-- KEYS[5] stalled-check (string + PX)
-- KEYS[6] meta-paused (string)
-- KEYS[7] paused (list)
-- KEYS[8] priority (zset)
-- KEYS[9] flowstate:journal (list)
--
-- ARGV[1] how many stalls a job may have
-- ARGV[2] prefix of all keys of the queue; keys of hashes and locks are built from it, because the ids are not known
-- ARGV[3] now, ms
-- ARGV[4] interval of the check, ms: within it no worker of the queue checks again
-- ARGV[5] how many entries of the journal to keep; 0 = all
-- ARGV[6] which fields of the data of a failed job are redacted, see the include `redact`
--
-- Returns {ids requeued, ids failed}
-- Publishes stalled@: id · failed: {"jobId","val"}
-- Agrees with moveStalledJobsToWait of Bull 4; but a job with priority is requeued by that priority, ids
-- without a job are only removed from `active`, and every form of removeOnFail is safe

-- @include add_to_wait
-- @include retention
-- @include debounce
-- @include journal
-- @include job_outcome
-- @include redact
-- @include fail_job
-- @include misplaced_job


local max_stalls, base, now = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local requeued, failed = {}, {}

-- With nothing to check and nothing to mark an idle queue costs one command, and `stalled-check` stays unset.
if redis.call("EXISTS", KEYS[1], KEYS[3]) == 0 or redis.call("EXISTS", KEYS[5]) == 1 then
  return {requeued, failed}
end

local misplaced = misplaced_job(1, 9)
if misplaced then
  return misplaced
end

local target = target_list(KEYS[6], KEYS[2], KEYS[7])

local function requeue(id)
  add_to_wait(target, KEYS[8], redis.call("HGET", base .. id, "priority"), {id}, "front")
  redis.call("PUBLISH", base .. "stalled@", id)
  requeued[#requeued + 1] = id
end

local function check(id)
  local hash = base .. id
  if redis.call("EXISTS", hash .. ":lock") == 1 or redis.call("LREM", KEYS[3], 1, id) == 0 then
    return
  end
  if not is_job(hash) then
    return
  end
  if increment(hash, "stalledCounter") > max_stalls then
    fail_job(
      KEYS[4], base, id, now,
      "job stalled more than allowable limit", "job stalled more than maxStalledCount",
      ARGV[6]
    )
    failed[#failed + 1] = id
  else
    requeue(id)
  end
end

for _, id in ipairs(redis.call("SMEMBERS", KEYS[1])) do
  check(id)
end
redis.call("DEL", KEYS[1])
local active = redis.call("LRANGE", KEYS[3], 0, -1)
for first = 1, #active, 5000 do
  redis.call("SADD", KEYS[1], unpack(active, first, math.min(first + 4999, #active)))
end
redis.call("SET", KEYS[5], now, "PX", ARGV[4])
write_journal(KEYS[9], tonumber(ARGV[5]))
return {requeued, failed}
