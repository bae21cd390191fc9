-- Returns a page of the jobs in one state.
--
-- KEYS[1] the state's key (list or zset; absent = empty)
--
-- ARGV[1] prefix of all keys of the queue
-- ARGV[2] first position
-- ARGV[3] last position
-- ARGV[4] 1 = newest first, 0 = oldest first
--
-- Returns {{id, score or "", locked, log rows, {field, value, …}}, …}
-- Publishes nothing
-- Agrees with getJobs of Bull 4

-- @include job_details

local base, first, last, newest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == "1"
local kind = redis.call("TYPE", KEYS[1]).ok
local page = {}

local function append(id, score)
  local hash = base .. id
  local locked, rows, fields = job_details(hash, hash .. ":lock", hash .. ":logs")
  page[#page + 1] = {id, score, locked, rows, fields}
end

if kind == "zset" then
  local found = redis.call(newest and "ZREVRANGE" or "ZRANGE", KEYS[1], first, last, "WITHSCORES")
  for i = 1, #found, 2 do
    append(found[i], found[i + 1])
  end
elseif kind == "list" and newest then
  for _, id in ipairs(redis.call("LRANGE", KEYS[1], first, last)) do
    append(id, "")
  end
elseif kind == "list" then
  local found = redis.call("LRANGE", KEYS[1], -last - 1, -first - 1)
  for i = #found, 1, -1 do
    append(found[i], "")
  end
end
return page
