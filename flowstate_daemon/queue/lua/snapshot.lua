-- Reads what the metrics need, in one call, at a cost that does not grow with the queue.
--
-- KEYS[1] wait (list)
-- KEYS[2] active (list)
-- KEYS[3] delayed (zset)
-- KEYS[4] paused (list)
-- KEYS[5] completed (zset)
-- KEYS[6] failed (zset)
-- KEYS[7] meta-paused (string)
-- KEYS[8] priority (zset)
-- KEYS[9] journal (list)
--
-- ARGV[1] what all keys of the queue start with
--
-- Returns {wait, active, delayed, paused, completed, failed, is paused, oldest waiting ms or -1, next due ms or -1,
--   outcomes in the journal}
-- Publishes nothing
-- Agrees with getJobCounts and isPaused of Bull 4

local base = ARGV[1]
local CLASSES = 16 -- priorities looked at; FlowState uses three

local waiting = redis.call("LLEN", KEYS[1])
local list = waiting > 0 and KEYS[1] or KEYS[4]
local oldest = -1

-- The list runs from the tail: most urgent first, within one priority oldest first. So the oldest job of each
-- priority stands right behind all more urgent ones, and the oldest without priority behind all that have one.
local function weigh(ahead)
  local id = redis.call("LINDEX", list, -1 - ahead)
  local stamp = id and redis.pcall("HGET", base .. id, "timestamp")
  local at = type(stamp) == "string" and tonumber(stamp)
  if at and (oldest < 0 or at < oldest) then
    oldest = at
  end
end

local above = "-inf"
weigh(0)
for _ = 1, CLASSES do
  local class = redis.call("ZRANGEBYSCORE", KEYS[8], above, "+inf", "WITHSCORES", "LIMIT", 0, 1)[2]
  if not class then
    break
  end
  weigh(redis.call("ZCOUNT", KEYS[8], "-inf", "(" .. class))
  above = "(" .. class
end
weigh(redis.call("ZCARD", KEYS[8]))

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
}
