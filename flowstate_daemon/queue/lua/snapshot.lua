-- Returns what the metrics need, in one call, at a cost that does not grow with the queue.
--
-- KEYS[1] wait (list)
-- KEYS[2] active (list)
-- KEYS[3] delayed (zset)
-- KEYS[4] paused (list)
-- KEYS[5] completed (zset)
-- KEYS[6] failed (zset)
-- KEYS[7] meta-paused (string)
-- KEYS[8] priority (zset)
-- KEYS[9] flowstate:journal (list)
-- KEYS[10] id (string, counter)
-- KEYS[11] flowstate:last-added (string, ms)
--
-- ARGV[1] prefix of all keys of the queue
--
-- Returns {wait, active, delayed, paused, completed, failed, is paused, oldest waiting ms or -1, next due ms or -1,
--   entries in the journal, when the backend last added a job in ms or -1}
-- Publishes nothing
-- Agrees with getJobCounts and isPaused of Bull 4

-- @include unix_ms

local base = ARGV[1]
local MAX_PRIORITIES = 16 -- priorities examined; FlowState uses three

local waiting = redis.call("LLEN", KEYS[1])
local list = waiting > 0 and KEYS[1] or KEYS[4]
local oldest = -1

-- The tail runs first: most urgent first, within one priority oldest first. So the oldest job of each priority follows
-- directly after all more urgent ones, and the oldest without priority after all that have one.
local function update_oldest(ahead)
  local id = redis.call("LINDEX", list, -1 - ahead)
  local stamp = id and redis.pcall("HGET", base .. id, "timestamp")
  local at = unix_ms(stamp)
  if at and (oldest < 0 or at < oldest) then
    oldest = at
  end
end

local above = "-inf"
update_oldest(0)
for _ = 1, MAX_PRIORITIES do
  local priority = redis.call("ZRANGEBYSCORE", KEYS[8], above, "+inf", "WITHSCORES", "LIMIT", 0, 1)[2]
  if not priority then
    break
  end
  update_oldest(redis.call("ZCOUNT", KEYS[8], "-inf", "(" .. priority))
  above = "(" .. priority
end
update_oldest(redis.call("ZCARD", KEYS[8]))

-- Claimed jobs are remembered in KEYS[11]; the newest one may still wait. An id that Bull's counter gave is the backend's.
local function last_added()
  local id = redis.pcall("GET", KEYS[10])
  local stamp = type(id) == "string" and redis.pcall("HGET", base .. id, "timestamp")
  local remembered = redis.pcall("GET", KEYS[11])
  return math.max(unix_ms(stamp) or -1, unix_ms(remembered) or -1)
end

local due = redis.call("ZRANGE", KEYS[3], 0, 0, "WITHSCORES")[2]
return {
  waiting,
  redis.call("LLEN", KEYS[2]),
  redis.call("ZCARD", KEYS[3]),
  redis.call("LLEN", KEYS[4]),
  redis.call("ZCARD", KEYS[5]),
  redis.call("ZCARD", KEYS[6]),
  redis.call("EXISTS", KEYS[7]),
  oldest,
  due and math.ceil(tonumber(due) / 4096) or -1,
  redis.call("LLEN", KEYS[9]),
  last_added(),
}
