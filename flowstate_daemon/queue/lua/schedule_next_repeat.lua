-- Adds the next job of a repeatable definition, unless the definition was removed or the job exists already.
--
-- KEYS[1] repeat (zset)
-- KEYS[2] id (string, counter)
-- KEYS[3] delayed (zset)
-- KEYS[4] <next id> (hash)
-- KEYS[5] wait (list)
-- KEYS[6] paused (list)
-- KEYS[7] meta-paused (string)
-- KEYS[8] priority (zset)
-- KEYS[9] <id> (hash) of the claimed job
--
-- ARGV[1] the definition's member of `repeat`
-- ARGV[2] next id
-- ARGV[3] its due time, ms
-- ARGV[4] now, ms
-- ARGV[5] name
-- ARGV[6] data, JSON, used when the hash of the claimed job has none
-- ARGV[7] opts, JSON
-- ARGV[8] priority, 0 = none
-- ARGV[9] "lifo" or "back"
-- ARGV[10] channel duplicated@token
-- ARGV[11] channel waiting@token
--
-- Returns 1 added; 0 it exists already; -1 the definition was removed
-- Publishes delayed: due time, ms, or waiting@token: id for a job due now; duplicated@token: id
-- Agrees with nextRepeatableJob and addJob of Bull 4, but ignores the debounce: the claimed job still holds it,
-- so that in Bull the definition ends there

-- @include add_to_wait

local definition, id, due, now = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

if not redis.call("ZSCORE", KEYS[1], definition) then
  return -1
end
redis.call("ZADD", KEYS[1], ARGV[3], definition)
local counter = redis.call("INCR", KEYS[2])
if redis.call("EXISTS", KEYS[4]) == 1 then
  redis.call("PUBLISH", ARGV[10], id)
  return 0
end

-- Copied in Redis: a claim does not return data that is too long, and the next job must get all of it.
local data = redis.pcall("HGET", KEYS[9], "data")
local delay = math.max(due - now, 0)
redis.call(
  "HSET", KEYS[4],
  "name", ARGV[5],
  "data", type(data) == "string" and data or ARGV[6],
  "opts", ARGV[7],
  "timestamp", ARGV[4],
  "delay", string.format("%.0f", delay),
  "priority", ARGV[8]
)
if delay > 0 then
  redis.call("ZADD", KEYS[3], string.format("%.0f", due * 4096 + bit.band(counter, 0xfff)), id)
  redis.call("PUBLISH", KEYS[3], ARGV[3])
else
  add_to_wait(target_list(KEYS[7], KEYS[5], KEYS[6]), KEYS[8], ARGV[8], {id}, ARGV[9])
  redis.call("PUBLISH", ARGV[11], id)
end
return 1
