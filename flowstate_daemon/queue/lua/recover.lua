-- Requeues jobs in `active` that this instance has locked but does not run: those of its dead predecessor, and those
-- whose claim was executed while its reply was lost.
--
-- KEYS[1] active (list)
-- KEYS[2] wait (list)
-- KEYS[3] paused (list)
-- KEYS[4] meta-paused (string)
-- KEYS[5] priority (zset)
-- KEYS[6] stalled (set)
-- KEYS[7] failed (zset; also the channel)
-- KEYS[8] flowstate:journal (list)
--
-- ARGV[1] prefix of all keys of the queue; keys of hashes and locks are built from it, because the ids are not known
-- ARGV[2] token of the worker
-- ARGV[3] prefix of all tokens of the instance
-- ARGV[4] now, ms
-- ARGV[5] how often a job may be recovered from a dead process
-- ARGV[6] failure reason of a job that was recovered too often
-- ARGV[7] how many entries of the journal to keep; 0 = all
-- ARGV[8] which fields of the data of a failed job are redacted, see the include `redact`
-- then the ids of all jobs that the worker has in flight
--
-- Returns {ids requeued, ids failed}
-- Publishes failed: {"jobId","val"}
-- Agrees with no script of Bull 4, where such jobs wait for two stalled checks; jobs without a lock are not touched

-- @include add_to_wait
-- @include retention
-- @include debounce
-- @include journal
-- @include job_outcome
-- @include redact
-- @include fail_job
-- @include misplaced_job

local misplaced = misplaced_job(1, 8)
if misplaced then
  return misplaced
end

local base, token, instance, now, max_recoveries = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local held, requeued, failed = {}, {}, {}

for i = 9, #ARGV do
  held[ARGV[i]] = true
end

local active = redis.call("LRANGE", KEYS[1], 0, -1)
local target = target_list(KEYS[4], KEYS[2], KEYS[3])

local function requeue_own(id, counted)
  local hash = base .. id
  redis.call("LREM", KEYS[1], -1, id)
  redis.call("SREM", KEYS[6], id)
  redis.call("DEL", hash .. ":lock")
  if not is_job(hash) then
    return
  end
  if counted and increment(hash, "recoveredCounter") > max_recoveries then
    fail_job(KEYS[7], base, id, now, ARGV[6], ARGV[6], ARGV[8])
    failed[#failed + 1] = id
  else
    add_to_wait(target, KEYS[5], redis.call("HGET", hash, "priority"), {id}, "front")
    requeued[#requeued + 1] = id
  end
end

local function recover(ids)
  local locks = {}
  for i, id in ipairs(ids) do
    locks[i] = base .. id .. ":lock"
  end
  for i, holder in ipairs(redis.call("MGET", unpack(locks))) do
    if holder == token then
      if not held[ids[i]] then
        requeue_own(ids[i], false)
      end
    elseif holder and string.sub(holder, 1, #instance) == instance then
      requeue_own(ids[i], true)
    end
  end
end

-- From the newest to the oldest: each job is put before those that were requeued earlier, so the oldest runs first.
for first = 1, #active, 1000 do
  recover({unpack(active, first, math.min(first + 999, #active))})
end
write_journal(KEYS[8], tonumber(ARGV[7]))
return {requeued, failed}
