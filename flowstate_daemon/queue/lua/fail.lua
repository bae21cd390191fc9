-- Fails up to 100 jobs for good.
--
-- KEYS[1] active (list)
-- KEYS[2] failed (zset; also the channel)
-- KEYS[3] stalled (set)
-- then 3 for each job: <id> (hash) · <id>:lock (string) · <id>:logs (list)
--
-- ARGV[1] what all keys of the queue start with; jobs that retention removes are found with it
-- ARGV[2] token of the worker
-- ARGV[3] now, ms
-- then 9 for each job:
--   id · timestamp as read at the claim · retention: count or "", 0 = remove · age, s, or ""
--   · attempts made, this one included · reason · stack traces, JSON · event · row for the log
--
-- Returns Bull's code for each job: 0 done; -1 no such job; -2 no lock; -3 not in active; -6 another's lock
-- Publishes failed: {"jobId","val"}, each
-- Agrees with saveStacktrace + moveToFinished of Bull 4, without metrics; the lock is tested before anything is written

-- @include retention
-- @include debounce
-- @include leave_active

local base, token, now = ARGV[1], ARGV[2], ARGV[3]
local locks, codes = read_locks(4, 3), {}

local function keep(hash, logs, id, at)
  redis.call("ZADD", KEYS[2], now, id)
  redis.call(
    "HSET", hash,
    "attemptsMade", ARGV[at + 4],
    "failedReason", ARGV[at + 5],
    "stacktrace", ARGV[at + 6],
    "finishedOn", now
  )
  redis.pcall("RPUSH", logs, ARGV[at + 8])
  trim(KEYS[2], base, tonumber(now), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]))
end

for job = 1, #locks do
  local key, at = 1 + 3 * job, 9 * job - 5
  local hash, logs, id = KEYS[key], KEYS[key + 2], ARGV[at]
  local code, _, debounce_id = leave_active(KEYS[1], hash, KEYS[key + 1], locks[job], token, id, ARGV[at + 1])
  codes[job] = code
  if code == 0 then
    release_debounce(base, debounce_id)
    if ARGV[at + 2] == "0" then
      redis.call("DEL", hash, logs)
    else
      keep(hash, logs, id, at)
    end
    redis.call("PUBLISH", KEYS[2], ARGV[at + 7])
  end
end
let_go(KEYS[3])
return codes
