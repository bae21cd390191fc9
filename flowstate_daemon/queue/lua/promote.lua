-- Moves due jobs from `delayed` to the list of ready jobs, also while the queue is paused.
--
-- KEYS[1] delayed (zset; also the channel)
-- KEYS[2] wait (list)
-- KEYS[3] paused (list)
-- KEYS[4] meta-paused (string)
-- KEYS[5] priority (zset)
--
-- ARGV[1] prefix of all keys of the queue; keys of hashes are built from it, because the ids are not known
-- ARGV[2] token of the worker
-- ARGV[3] now, ms
-- ARGV[4] maximum number of jobs, at most 1000
--
-- Returns {jobs moved, due time of the next one, ms, or -1}
-- Publishes waiting@token: id, each · delayed: due time of the next one
-- Agrees with updateDelaySet of Bull 4; but ids without a job are only removed, where Bull creates jobs for them, and
-- `active` is not searched for ids that cannot be in it

-- @include add_to_wait
-- @include misplaced_job


local base, channel = ARGV[1], ARGV[1] .. "waiting@" .. ARGV[2]
local end_of_now = (tonumber(ARGV[3]) + 1) * 4096
local ids, priorities = {}, {}

local function first_score()
  return tonumber(redis.call("ZRANGE", KEYS[1], 0, 0, "WITHSCORES")[2])
end

-- Removes the due jobs from the set. Publishes first: without permission to publish the script fails before a write.
local function remove_due()
  local due = redis.call("ZRANGEBYSCORE", KEYS[1], "-inf", string.format("(%.0f", end_of_now), "LIMIT", 0, ARGV[4])
  for _, id in ipairs(due) do
    local found = redis.pcall("HMGET", base .. id, "priority", "timestamp", "opts")
    if not found.err and (found[2] or found[3]) then
      ids[#ids + 1], priorities[#priorities + 1] = id, rank_of(found[1])
      redis.call("PUBLISH", channel, id)
    end
  end
  redis.call("ZREM", KEYS[1], unpack(due))
end

-- Consecutive jobs of one priority are added to the list in one call.
local function add_ready()
  local target = target_list(KEYS[4], KEYS[2], KEYS[3])
  local first = 1
  for i, id in ipairs(ids) do
    redis.call("HSET", base .. id, "delay", 0)
    if priorities[i + 1] ~= priorities[i] then
      add_to_wait(target, KEYS[5], priorities[i], {unpack(ids, first, i)}, "back")
      first = i + 1
    end
  end
end

local score = first_score()
if score and score < end_of_now then
  -- Only before something is written, so that an idle daemon runs no further command.
  local misplaced = misplaced_job(1, 5)
  if misplaced then
    return misplaced
  end
  remove_due()
  add_ready()
  score = first_score()
end
if not score then
  return {#ids, -1}
end
local next_due = string.format("%.0f", math.floor(score / 4096))
redis.call("PUBLISH", KEYS[1], next_due)
return {#ids, tonumber(next_due)}
