-- Adds up to 100 jobs: to the list of ready jobs, or to `delayed`.
--
-- KEYS[1] id (string, counter)
-- KEYS[2] wait (list)
-- KEYS[3] paused (list)
-- KEYS[4] meta-paused (string)
-- KEYS[5] delayed (zset)
-- KEYS[6] priority (zset)
-- then, in the order of the jobs: <custom id> (hash) of each that has one, de:<id> (string) of each that has one
--
-- ARGV[1] prefix of all keys of the queue; the keys of jobs without custom id are built from it and the counter
-- ARGV[2] token of the producer
-- then 11 for each job:
--   custom id or "" · name · data, JSON · opts, JSON · timestamp, ms · delay, ms · due, ms, or 0 = now
--   · priority, 0 = none · "lifo" or "back" · debounce id or "" · debounce time, ms, or ""
--
-- Returns {id, outcome, …}; outcome 0 added, 1 the custom id exists, 2 debounced: id is that of the existing job
-- Publishes waiting@token: id, each · delayed: the earliest due time, once · duplicated@token, debounced@token: id
-- Agrees with addJob of Bull 4; but a number that is already used as a custom id is skipped, where Bull overwrites that
-- job, and a debounce whose job was obliterated is replaced, where Bull refuses new jobs for ever

-- @include add_to_wait
-- @include misplaced_job

local misplaced = misplaced_job(2, 6)
if misplaced then
  return misplaced
end

local base, token = ARGV[1], ARGV[2]
local count = (#ARGV - 2) / 11
local added, at_key = {}, 6
local due_first, run, run_priority, run_mode
local counter = redis.call("INCRBY", KEYS[1], count) - count
local target = target_list(KEYS[4], KEYS[2], KEYS[3])

local function next_key()
  at_key = at_key + 1
  return KEYS[at_key]
end

local function flush_run()
  if run then
    add_to_wait(target, KEYS[6], run_priority, run, run_mode)
    run = nil
  end
end

-- Consecutive jobs of one priority are added to the list in one call.
local function add_ready(id, priority, mode)
  if priority ~= run_priority or mode ~= run_mode then
    flush_run()
    run_priority, run_mode = priority, mode
  end
  run = run or {}
  run[#run + 1] = id
end

-- The id of the job that holds the debounce, or nil when the new job has taken it.
local function debounced_by(key, id, time)
  local kind = redis.call("TYPE", key).ok
  if kind ~= "string" and kind ~= "none" then
    return nil
  end
  local holder = kind == "string" and redis.call("GET", key)
  if holder and (redis.call("PTTL", key) > 0 or redis.call("EXISTS", base .. holder) == 1) then
    return holder
  end
  if time ~= "" then
    redis.call("SET", key, id, "PX", time)
  else
    redis.call("SET", key, id)
  end
end

local function free_number(number)
  while redis.call("EXISTS", base .. string.format("%.0f", number)) == 1 do
    number = redis.call("INCR", KEYS[1])
  end
  return string.format("%.0f", number)
end

local function store(hash, id, at, debounce_id)
  local due, priority = tonumber(ARGV[at + 6]), ARGV[at + 7]
  redis.call(
    "HSET", hash,
    "name", ARGV[at + 1],
    "data", ARGV[at + 2],
    "opts", ARGV[at + 3],
    "timestamp", ARGV[at + 4],
    "delay", ARGV[at + 5],
    "priority", priority
  )
  if debounce_id ~= "" then
    redis.call("HSET", hash, "deid", debounce_id)
  end
  if due > 0 then
    redis.call("ZADD", KEYS[5], string.format("%.0f", due * 4096 + counter % 4096), id)
    due_first = math.min(due_first or due, due)
  else
    add_ready(id, priority, ARGV[at + 8])
    redis.call("PUBLISH", base .. "waiting@" .. token, id)
  end
end

for job = 1, count do
  local at = 3 + (job - 1) * 11
  local id, debounce_id = ARGV[at], ARGV[at + 9]
  local hash = id ~= "" and next_key()
  local debounce = debounce_id ~= "" and next_key()
  local outcome, holder = 0, nil
  counter = counter + 1
  if hash and redis.call("EXISTS", hash) == 1 then
    outcome = 1
    redis.call("PUBLISH", base .. "duplicated@" .. token, id)
  else
    if not hash then
      id = free_number(counter)
      hash = base .. id
    end
    holder = debounce and debounced_by(debounce, id, ARGV[at + 10])
    if holder then
      id, outcome = holder, 2
      redis.call("PUBLISH", base .. "debounced@" .. token, id)
    else
      store(hash, id, at, debounce_id)
    end
  end
  added[2 * job - 1], added[2 * job] = id, outcome
end
flush_run()
if due_first then
  redis.call("PUBLISH", KEYS[5], string.format("%.0f", due_first))
end
return added
