-- Adds a row to a job's log.
--
-- KEYS[1] <id> (hash)
-- KEYS[2] <id>:logs (list)
--
-- ARGV[1] row
-- ARGV[2] how many of the newest rows to keep; 0 = all
--
-- Returns the number of rows; -1 no such job
-- Publishes nothing
-- Agrees with addLog of Bull 4

local kind = redis.call("TYPE", KEYS[2]).ok
if redis.call("TYPE", KEYS[1]).ok ~= "hash" or (kind ~= "list" and kind ~= "none") then
  return -1
end
local rows, keep = redis.call("RPUSH", KEYS[2], ARGV[1]), tonumber(ARGV[2])
if keep > 0 and rows > keep then
  redis.call("LTRIM", KEYS[2], -keep, -1)
  rows = keep
end
return rows
