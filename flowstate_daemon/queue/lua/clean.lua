-- Deletes old jobs of one state that match a filter in batches, oldest first.
--
-- KEYS[1] the state's key (list or zset)
-- KEYS[2] priority (zset)
-- KEYS[3] stalled (set)
-- KEYS[4] limiter:index (hash)
-- KEYS[5] flowstate:journal (list)
--
-- ARGV[1] prefix of all keys of the queue
-- ARGV[2] latest time of a job to delete, ms
-- ARGV[3] how many of the oldest jobs to skip
-- ARGV[4] how many jobs to examine
-- ARGV[5] maximum number of jobs to delete
-- ARGV[6] highest score to examine, in a zset
-- ARGV[7] now, ms
-- ARGV[8] reason of the outcome `removed`, which every deleted job gets; "" for completed jobs, whose email was sent
-- ARGV[9] how many entries of the journal to keep; 0 = all
-- ARGV[10] filter (see job_filter.lua)
--
-- Returns {number examined, number deleted}
-- Publishes nothing
-- Agrees with cleanJobsInSet of Bull 4 (a job's time is the first present of finishedOn, processedOn, timestamp; locked
-- jobs stay; ids without a hash are removed), but compares numbers where Bull compares strings, and accepts `delayed`

-- @include delete_job
-- @include job_filter
-- @include journal
-- @include job_outcome
-- @include unix_ms

local base, latest, skip = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local count, limit = tonumber(ARGV[4]), tonumber(ARGV[5])
local filter = read_filter(ARGV[10])
local is_list = redis.call("TYPE", KEYS[1]).ok == "list"

local function is_old(hash)
  if redis.call("EXISTS", hash .. ":lock") == 1 then
    return false
  end
  if redis.call("TYPE", hash).ok ~= "hash" then
    return true
  end
  for _, mark in ipairs(redis.call("HMGET", hash, "finishedOn", "processedOn", "timestamp")) do
    local at = unix_ms(mark)
    if at then
      return at <= latest
    end
  end
  return true
end

local ids
if is_list then
  ids = redis.call("LRANGE", KEYS[1], -skip - count, -skip - 1) -- the tail is the old end
else
  ids = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", ARGV[6], "LIMIT", skip, count)
end

-- Removing by value searches the list: for each job, all that are skipped. So removed jobs are marked by position, and the
-- marks are removed in one search. No job has this id.
local REMOVED = "\0removed"

local examined, removed = 0, 0
for i = 1, #ids do
  if removed >= limit then
    break
  end
  local id = ids[is_list and #ids + 1 - i or i]
  examined = examined + 1
  if is_old(base .. id) and job_matches(filter, base .. id) then
    if is_list then
      redis.call("LSET", KEYS[1], -skip - i, REMOVED)
    else
      redis.call("ZREM", KEYS[1], id)
    end
    if ARGV[8] ~= "" and redis.call("TYPE", base .. id).ok == "hash" then
      add_entry(0, outcome_entry(base, id, ARGV[7], "removed", ARGV[8]))
    end
    delete_job(base, KEYS[2], KEYS[3], KEYS[4], id, true)
    removed = removed + 1
  end
end
if is_list and removed > 0 then
  redis.call("LREM", KEYS[1], -removed, REMOVED)
end
write_journal(KEYS[5], tonumber(ARGV[9]))
return {examined, removed}
