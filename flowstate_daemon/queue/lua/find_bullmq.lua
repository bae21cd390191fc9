-- Looks for keys of BullMQ under the name of the queue.
--
-- KEYS[1] meta (hash)
-- KEYS[2] events (stream)
-- KEYS[3] prioritized (zset)
-- KEYS[4] marker (zset; in older versions a string)
--
-- Returns {version of BullMQ or "", 1 if there are events or a marker, number of jobs with a priority}
-- Publishes nothing
-- Agrees with BullMQ 3 to 5; Bull has none of these keys

local function type_of(key)
  return redis.call("TYPE", key).ok
end

local version, found, jobs = "", 0, 0
if type_of(KEYS[1]) == "hash" then
  version = redis.call("HGET", KEYS[1], "version") or ""
  if string.sub(version, 1, 6) ~= "bullmq" then
    version = ""
  end
end
if type_of(KEYS[2]) == "stream" or (type_of(KEYS[4]) ~= "none" and type_of(KEYS[4]) ~= "hash") then
  found = 1
end
if type_of(KEYS[3]) == "zset" then
  jobs = redis.call("ZCARD", KEYS[3])
end
return {version, found, jobs}
