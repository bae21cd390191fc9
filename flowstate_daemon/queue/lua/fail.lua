-- Fails up to 100 jobs finally.
--
-- KEYS[1] active (list)
-- KEYS[2] failed (zset; also the channel)
-- KEYS[3] stalled (set)
-- KEYS[4] flowstate:journal (list)
-- then 3 for each job: <id> (hash) · <id>:lock (string) · <id>:logs (list)
--
-- ARGV[1] prefix of all keys of the queue; for the keys of stored requests and of jobs that retention deletes
-- ARGV[2] token of the worker
-- ARGV[3] now, ms
-- ARGV[4] how many entries of the journal to keep; 0 = all
-- then 12 for each job:
--   id · timestamp as read at the claim · retention: count or "", 0 = remove · age, s, or ""
--   · attempts made, this one included · reason · stack traces, JSON · event · row for the log
--   · entry for the journal, or "" · data that replaces the job's, which holds a secret, or ""
--   · if the email may have been sent, how many requests have contained it, else 0
--
-- Returns Bull's code for each job: 0 done; -1 no such job; -2 no lock; -3 not in active; -6 locked by another worker
-- Publishes failed: {"jobId","val"}, each
-- Agrees with saveStacktrace + moveToFinished of Bull 4, without metrics; the lock is checked before anything is written

-- @include retention
-- @include debounce
-- @include remove_from_active
-- @include stored_request
-- @include journal
-- @include misplaced_job

local misplaced = misplaced_job(1, 4)
if misplaced then
  return misplaced
end

local base, token, now = ARGV[1], ARGV[2], ARGV[3]
local locks, codes = read_locks(5, 3), {}

local function key_of(request_id)
  return base .. "flowstate:request:" .. request_id
end

-- A job whose stored request has expired is parked instead of sent. When an operator retries such a job it must be
-- sent, so the reference to the expired request is removed; `maybeSent` keeps it out of a retry of all failed jobs.
local function drop_expired_request(hash, request_id)
  if request_id and redis.call("EXISTS", key_of(request_id)) == 0 then
    redis.call("HDEL", hash, "storedRequest")
    redis.call("HSET", hash, "maybeSent", 1)
  end
end

local function keep(hash, logs, id, at)
  redis.call("ZADD", KEYS[2], now, id)
  redis.call(
    "HSET", hash,
    "attemptsMade", ARGV[at + 4],
    "failedReason", ARGV[at + 5],
    "stacktrace", ARGV[at + 6],
    "finishedOn", now
  )
  if ARGV[at + 10] ~= "" then
    redis.call("HSET", hash, "data", ARGV[at + 10])
  end
  redis.pcall("RPUSH", logs, ARGV[at + 8])
  trim(KEYS[2], base, tonumber(now), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3]))
end

for job = 1, #locks do
  local key, at = 2 + 3 * job, 12 * job - 7
  local hash, logs, id = KEYS[key], KEYS[key + 2], ARGV[at]
  local code, _, debounce_id, request_id =
    remove_from_active(KEYS[1], hash, KEYS[key + 1], locks[job], token, id, ARGV[at + 1])
  codes[job] = code
  add_entry(code, ARGV[at + 9])
  if code == 0 then
    release_debounce(base, debounce_id)
    if ARGV[at + 2] == "0" then
      redis.call("DEL", hash, logs)
      count_member(request_id)
    else
      if ARGV[at + 11] ~= "0" then -- what becomes of all earlier requests is for a person to find out
        redis.call("HDEL", hash, "storedRequest")
        redis.call("HSET", hash, "requests", ARGV[at + 11], "maybeSent", 1)
        count_member(request_id)
      elseif ARGV[at + 10] == "" then
        drop_expired_request(hash, request_id)
      else -- the job's secret was removed, so it cannot be sent again, and its stored request holds the secret too
        redis.call("HDEL", hash, "storedRequest")
        count_member(request_id)
      end
      keep(hash, logs, id, at)
    end
    redis.call("PUBLISH", KEYS[2], ARGV[at + 7])
  end
end
release_locks(KEYS[3])
write_journal(KEYS[4], tonumber(ARGV[4]))
release_requests(key_of)
return codes
