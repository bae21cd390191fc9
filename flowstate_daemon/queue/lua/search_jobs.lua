-- Examines the jobs of one state between two positions, and returns those that match a filter.
--
-- KEYS[1] the state's key (list or zset; absent = empty)
--
-- ARGV[1] prefix of all keys of the queue
-- ARGV[2] first position
-- ARGV[3] how many jobs to examine
-- ARGV[4] 1 = newest first, 0 = oldest first
-- ARGV[5] filter (see job_filter.lua)
-- ARGV[6] how many jobs to return; the search ends after the last of them. 0 = only count
--
-- Returns {number examined, number that match, {{id, score or "", locked, log rows, {field, value, …}}, …}}
-- Publishes nothing
-- Agrees with no script of Bull 4: it has no filters

-- @include job_details
-- @include job_filter

local base, first, count, newest = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == "1"
local filter, wanted = read_filter(ARGV[5]), tonumber(ARGV[6])
local kind = redis.call("TYPE", KEYS[1]).ok
local last = first + count - 1
local ids = {}

if kind == "zset" then
  ids = redis.call(newest and "ZREVRANGE" or "ZRANGE", KEYS[1], first, last)
elseif kind == "list" and newest then
  ids = redis.call("LRANGE", KEYS[1], first, last)
elseif kind == "list" then
  local found = redis.call("LRANGE", KEYS[1], -last - 1, -first - 1)
  for i = #found, 1, -1 do
    ids[#ids + 1] = found[i]
  end
end

local examined, matching, page = 0, 0, {}
for _, id in ipairs(ids) do
  local hash = base .. id
  examined = examined + 1
  if job_matches(filter, hash) then
    matching = matching + 1
    if wanted > 0 then
      local locked, rows, fields = job_details(hash, hash .. ":lock", hash .. ":logs")
      local score = kind == "zset" and redis.call("ZSCORE", KEYS[1], id) or ""
      page[#page + 1] = {id, score, locked, rows, fields}
      if #page == wanted then
        break
      end
    end
  end
end
return {examined, matching, page}
