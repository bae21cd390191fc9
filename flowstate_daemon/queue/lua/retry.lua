-- Records failed attempts of up to 100 jobs and schedules the next attempt: after a delay, or at once.
--
-- KEYS[1] active (list)
-- KEYS[2] wait (list)
-- KEYS[3] paused (list)
-- KEYS[4] meta-paused (string)
-- KEYS[5] delayed (zset; also the channel)
-- KEYS[6] priority (zset)
-- KEYS[7] stalled (set)
-- KEYS[8] flowstate:journal (list)
-- then 3 for each job: <id> (hash) · <id>:lock (string) · <id>:logs (list)
--
-- ARGV[1] token of the worker
-- ARGV[2] how many entries of the journal to keep; 0 = all
-- then 10 for each job:
--   id · timestamp as read at the claim · due, ms, or 0 = now · score suffix · attempts made, this one included
--   · reason · stack traces, JSON · "lifo" or "back" · row for the log
--   · entry for the journal, or ""
--
-- Returns Bull's code for each job: 0 done; -1 no such job; -2 no lock; -3 not in active; -6 locked by another worker
-- Publishes delayed: the earliest due time, once
-- Agrees with saveStacktrace + moveToDelayed or retryJob of Bull 4, which write before they check the lock

-- @include add_to_wait
-- @include remove_from_active
-- @include journal
-- @include misplaced_job

local misplaced = misplaced_job(1, 8)
if misplaced then
  return misplaced
end

local token = ARGV[1]
local locks, codes = read_locks(9, 3), {}
local target = target_list(KEYS[4], KEYS[2], KEYS[3])
local due_first

local function delay_job(id, due, score_suffix)
  redis.call("ZADD", KEYS[5], string.format("%.0f", due * 4096 + score_suffix), id)
  due_first = math.min(due_first or due, due)
end

for job = 1, #locks do
  local key, at = 6 + 3 * job, 10 * job - 7
  local hash, id, due = KEYS[key], ARGV[at], tonumber(ARGV[at + 2])
  local code, priority = remove_from_active(KEYS[1], hash, KEYS[key + 1], locks[job], token, id, ARGV[at + 1])
  codes[job] = code
  add_entry(code, ARGV[at + 9])
  if code == 0 then
    redis.call(
      "HSET", hash,
      "attemptsMade", ARGV[at + 4],
      "failedReason", ARGV[at + 5],
      "stacktrace", ARGV[at + 6]
    )
    redis.pcall("RPUSH", KEYS[key + 2], ARGV[at + 8])
    if due > 0 then
      delay_job(id, due, tonumber(ARGV[at + 3]))
    else
      add_to_wait(target, KEYS[6], priority, {id}, ARGV[at + 7])
    end
  end
end
release_locks(KEYS[7])
write_journal(KEYS[8], tonumber(ARGV[2]))
if due_first then
  redis.call("PUBLISH", KEYS[5], string.format("%.0f", due_first))
end
return codes
