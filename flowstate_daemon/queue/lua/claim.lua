-- Claims up to 100 jobs from the tail of `wait`, never while the queue is paused.
--
-- KEYS[1] wait (list)
-- KEYS[2] active (list)
-- KEYS[3] priority (zset)
-- KEYS[4] stalled (set)
-- KEYS[5] meta-paused (string)
-- KEYS[6] paused (list)
-- KEYS[7] limiter:index (hash), of Bull workers with a rate limiter
--
-- ARGV[1] what all keys of the queue start with; hash and lock of a job are built from it, as ids are not known before
-- ARGV[2] token of the worker
-- ARGV[3] life of a lock, ms
-- ARGV[4] now, ms
-- ARGV[5] how many jobs at most
-- ARGV[6] longest data to return, bytes
-- ARGV[7] 1 = say `drained` when there is nothing, else 0
-- ARGV[8] 1 = take only jobs of the most urgent priority, among the next hundred to run, else 0
--
-- Returns {jobs, dropped}; a job is {name, data, opts, timestamp, attemptsMade, priority, stacktrace, envelope, id}
--   and, for data that is too long and so left behind, its length; dropped are ids that name no job, or one in hand already
-- Publishes active@token: id, each · drained: ""
-- Agrees with moveToActive of Bull 4; but ids without a job leave the list, where Bull makes them jobs, and what
-- somebody put into `wait` of a paused queue is moved to `paused`, where Bull's resume would destroy it

-- @include merge_lists
-- @include job_row

local base, token, lock_ms, now, wanted = ARGV[1], ARGV[2], ARGV[3], ARGV[4], tonumber(ARGV[5])
local longest, only_urgent = tonumber(ARGV[6]), ARGV[8] == "1"
local jobs, dropped = {}, {}

if redis.call("EXISTS", KEYS[5]) == 1 then
  if redis.call("EXISTS", KEYS[1]) == 1 and are_lists(KEYS[1], KEYS[6]) then
    merge_lists(KEYS[1], KEYS[6], KEYS[6], KEYS[3])
  end
  return {jobs, dropped}
end

-- Bull workers with a rate limiter hold back later jobs for as long as an earlier one is noted here.
local function forget_limits(ids)
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

-- Whoever may not publish fails here, before anything has moved.
local function announce(ids)
  local channel = base .. "active@" .. token
  for _, id in ipairs(ids) do
    redis.call("PUBLISH", channel, id)
  end
end

local function lock_jobs(ids, locks)
  announce(ids)
  redis.call("ZREM", KEYS[3], unpack(ids))
  redis.call("SREM", KEYS[4], unpack(ids))
  forget_limits(ids)
  redis.call("LPUSH", KEYS[2], unpack(ids))
  for i, id in ipairs(ids) do
    redis.call("SET", locks[i], token, "PX", lock_ms)
    redis.call("HSET", base .. id, "processedOn", now)
  end
end

-- The next to run, the last of them first to run.
local function look_ahead(count)
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

local function take_off(ids)
  if not only_urgent then
    redis.call("LTRIM", KEYS[1], 0, -#ids - 1)
    return
  end
  for i = #ids, 1, -1 do
    redis.call("LREM", KEYS[1], -1, ids[i])
  end
end

local function claim(count)
  local tail = look_ahead(count)
  if #tail == 0 then
    return false
  end
  local names, holders = read_locks(tail)
  local ids, locks, seen = {}, {}, {}
  for i = #tail, 1, -1 do
    local id = tail[i]
    -- In `wait` and in our hands at once: somebody has queued a number twice.
    local twice = seen[id] or (holders[i] == token and redis.call("LPOS", KEYS[2], id))
    local row = not twice and row_of(base .. id, id, longest)
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
  take_off(tail)
  return true
end

for _ = 1, 10 do
  if #jobs == wanted or not claim(wanted - #jobs) then
    break
  end
end
if #jobs == 0 and ARGV[7] == "1" then
  redis.call("PUBLISH", base .. "drained", "")
end
return {jobs, dropped}
