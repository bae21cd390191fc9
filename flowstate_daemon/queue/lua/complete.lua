-- Completes up to 100 jobs.
--
-- KEYS[1] active (list)
-- KEYS[2] completed (zset; also the channel)
-- KEYS[3] stalled (set)
-- KEYS[4] flowstate:journal (list)
-- then 3 for each job: <id> (hash) · <id>:lock (string) · <id>:logs (list)
--
-- ARGV[1] prefix of all keys of the queue; for the keys of stored requests and of jobs that retention deletes
-- ARGV[2] token of the worker
-- ARGV[3] now, ms
-- ARGV[4] how many entries of the journal to keep; 0 = all
-- then 8 for each job:
--   id · timestamp as read at the claim · retention: count or "", 0 = remove · age, s, or "" · returnvalue, JSON · event
--   · entry for the journal, or "" · data that replaces the job's, which holds a secret, or ""
--
-- Returns Bull's code for each job: 0 done; -1 no such job; -2 no lock; -3 not in active; -6 locked by another worker
-- Publishes completed: {"jobId","val"}, each
-- Agrees with moveToFinished of Bull 4, without metrics; the lock is checked before anything is written

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
local locks, codes, removed = read_locks(5, 3), {}, {}
local kept_count, kept_age

local function key_of(request_id)
  return base .. "flowstate:request:" .. request_id
end

-- Consecutive jobs with the same retention policy are trimmed in one call: trimming after the last one gives the same
-- result as trimming after each.
local function trim_kept()
  if kept_count or kept_age then
    trim(KEYS[2], base, tonumber(now), tonumber(kept_count), tonumber(kept_age))
  end
end

local function keep(hash, id, at)
  local count, age = ARGV[at + 2], ARGV[at + 3]
  if count ~= kept_count or age ~= kept_age then
    trim_kept()
    kept_count, kept_age = count, age
  end
  redis.call("ZADD", KEYS[2], now, id)
  redis.call("HSET", hash, "returnvalue", ARGV[at + 4], "finishedOn", now)
  if ARGV[at + 7] ~= "" then
    redis.call("HSET", hash, "data", ARGV[at + 7])
  end
end

for job = 1, #locks do
  local key, at = 2 + 3 * job, 8 * job - 3
  local hash, id = KEYS[key], ARGV[at]
  local code, _, debounce_id, request_id =
    remove_from_active(KEYS[1], hash, KEYS[key + 1], locks[job], token, id, ARGV[at + 1])
  codes[job] = code
  add_entry(code, ARGV[at + 6])
  if code == 0 then
    release_debounce(base, debounce_id)
    count_member(request_id)
    if ARGV[at + 2] == "0" then
      removed[#removed + 1] = hash
      removed[#removed + 1] = KEYS[key + 2]
    else
      keep(hash, id, at)
    end
    redis.call("PUBLISH", KEYS[2], ARGV[at + 5])
  end
end
release_locks(KEYS[3])
write_journal(KEYS[4], tonumber(ARGV[4]))
release_requests(key_of)
if #removed > 0 then
  redis.call("DEL", unpack(removed))
end
trim_kept()
return codes
