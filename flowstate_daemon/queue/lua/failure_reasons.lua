-- Returns what a page of failed jobs failed of.
--
-- KEYS[1] failed (zset)
--
-- ARGV[1] prefix of all keys of the queue
-- ARGV[2] first position, newest first
-- ARGV[3] how many jobs to examine
--
-- Returns {{id, name or "", reason or "", finish time}, …}
-- Publishes nothing
-- Agrees with getJobs of Bull 4, of which it returns a part

local MAX_REASON_BYTES = 1000
local first = tonumber(ARGV[2])
local found = redis.call("ZREVRANGE", KEYS[1], first, first + tonumber(ARGV[3]) - 1, "WITHSCORES")
local page = {}

for i = 1, #found, 2 do
  local fields = redis.pcall("HMGET", ARGV[1] .. found[i], "name", "failedReason")
  local name, reason = fields[1] or "", fields[2] or ""
  page[#page + 1] = {found[i], name, string.sub(reason, 1, MAX_REASON_BYTES), found[i + 1]}
end
return page
