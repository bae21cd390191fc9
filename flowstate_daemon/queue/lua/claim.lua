-- Claims up to 100 jobs from the tail of `wait`, never while the queue is paused.
--
-- KEYS[1] wait (list)
-- KEYS[2] active (list)
-- KEYS[3] priority (zset)
-- KEYS[4] stalled (set)
-- KEYS[5] meta-paused (string)
-- KEYS[6] paused (list)
-- KEYS[7] limiter:index (hash), of Bull workers with a rate limiter
-- KEYS[8] flowstate:last-added (string, ms)
--
-- ARGV[1] prefix of all keys of the queue; keys of hashes and locks are built from it, because the ids are not known
-- ARGV[2] token of the worker
-- ARGV[3] lock duration, ms
-- ARGV[4] now, ms
-- ARGV[5] maximum number of jobs
-- ARGV[6] maximum length of data to return, bytes
-- ARGV[7] 1 = publish `drained` when there is no job, else 0
-- ARGV[8] 1 = claim only jobs of priority 1, among the next hundred to run, else 0
--
-- Returns {jobs, dropped, processed, is paused}; a job is {name, data, opts, timestamp, attemptsMade, priority, stacktrace,
--   storedRequest, requests, id} and, when the data is too long and therefore not returned, its length; dropped are ids
--   without a job, and ids of jobs that this worker has in flight already; processed are ids of jobs claimed before
-- Publishes active@token: id, each · drained: ""
-- Agrees with moveToActive of Bull 4; but ids without a job are removed, where Bull creates jobs for them, and ids in
-- `wait` of a paused queue are moved to `paused`, where Bull's resume would destroy them

-- @include merge_lists
-- @include unix_ms
-- @include last_added
-- @include job_row
-- @include misplaced_job

local misplaced = misplaced_job(1, 6)
if misplaced then
  return misplaced
end

local base, token, lock_ms, now, wanted = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local max_data_bytes, only_urgent = tonumber(ARGV[6]), ARGV[8] == "1"
local jobs, dropped, processed = {}, {}, {}

if redis.call("EXISTS", KEYS[5]) == 1 then
  if redis.call("EXISTS", KEYS[1]) == 1 and are_lists(KEYS[1], KEYS[6]) then
    merge_lists(KEYS[1], KEYS[6], KEYS[6], KEYS[3])
  end
  return {jobs, dropped, processed, 1}
end

-- Bull workers with a rate limiter delay later jobs as long as an earlier one is listed here.
local function remove_from_limiter(ids)
  if redis.call("EXISTS", KEYS[7]) == 0 then
    return
  end
  for i, set in ipairs(redis.call("HMGET", KEYS[7], unpack(ids))) do
    if set then
      redis.pcall("SREM", set, ids[i])
    end
  end
  redis.call("HDEL", KEYS[7], unpack(ids))
end

local function read_locks(ids)
  local names = {}
  for i, id in ipairs(ids) do
    names[i] = base .. id .. ":lock"
  end
  return names, redis.call("MGET", unpack(names))
end

-- Runs before anything is moved: without permission to publish the script fails here.
local function publish_active(ids)
  local channel = base .. "active@" .. token
  for _, id in ipairs(ids) do
    redis.call("PUBLISH", channel, id)
  end
end

local function lock_jobs(ids, locks)
  publish_active(ids)
  redis.call("ZREM", KEYS[3], unpack(ids))
  redis.call("SREM", KEYS[4], unpack(ids))
  remove_from_limiter(ids)
  redis.call("LPUSH", KEYS[2], unpack(ids))
  for i, id in ipairs(ids) do
    redis.call("SET", locks[i], token, "PX", lock_ms)
    if redis.call("HSET", base .. id, "processedOn", now) == 0 then
      processed[#processed + 1] = id
    end
  end
end

-- The next ids to run, in the order of the list: the last one runs first.
local function next_ids(count)
  if not only_urgent then
    return redis.call("LRANGE", KEYS[1], -count, -1)
  end
  local found, tail = {}, redis.call("LRANGE", KEYS[1], -100, -1)
  local ranks = #tail > 0 and redis.call("ZMSCORE", KEYS[3], unpack(tail)) or {}
  for i = #tail, 1, -1 do
    if #found < count and tonumber(ranks[i] or "0") == 1 then
      table.insert(found, 1, tail[i])
    end
  end
  return found
end

local function remove_from_wait(ids)
  if not only_urgent then
    redis.call("LTRIM", KEYS[1], 0, -#ids - 1)
    return
  end
  for i = #ids, 1, -1 do
    redis.call("LREM", KEYS[1], -1, ids[i])
  end
end

local function claim(count)
  local tail = next_ids(count)
  if #tail == 0 then
    return false
  end
  local names, holders = read_locks(tail)
  local ids, locks, seen = {}, {}, {}
  for i = #tail, 1, -1 do
    local id = tail[i]
    -- In `wait` and in flight at the same time: an id was queued twice.
    local twice = seen[id] or (holders[i] == token and redis.call("LPOS", KEYS[2], id))
    local row = not twice and job_row(base .. id, id, max_data_bytes)
    seen[id] = true
    if row then
      ids[#ids + 1], locks[#locks + 1], jobs[#jobs + 1] = id, names[i], row
    else
      dropped[#dropped + 1] = id
    end
  end
  if #ids > 0 then
    lock_jobs(ids, locks)
  end
  remove_from_wait(tail)
  return true
end

for _ = 1, 10 do
  if #jobs == wanted or not claim(wanted - #jobs) then
    break
  end
end
remember_last_added(KEYS[8], jobs, tonumber(now))
if #jobs == 0 and ARGV[7] == "1" then
  redis.call("PUBLISH", base .. "drained", "")
end
return {jobs, dropped, processed, 0}
