-- Fails a job that no worker holds any more. Needs `retention` and `debounce`. `val` is what the event says.

-- What to keep of the failed, in any form that producers write: remove this one, count, age.
local function read_retention(opts)
  local known, parsed = pcall(cjson.decode, opts or "")
  local wish = known and type(parsed) == "table" and parsed.removeOnFail
  local kind = type(wish)
  local count, age
  if kind == "table" then
    count, age = tonumber(wish.count), tonumber(wish.age)
  elseif kind == "number" then
    count = wish
  elseif kind == "string" then
    count = wish ~= "" and 0 or nil
  elseif kind == "boolean" then
    count = wish and 0 or nil
  end
  if count and not (count >= 0) then
    count = nil
  end
  return count == 0, count and math.ceil(count), age
end

-- A one-time code does not stay in a failed job, whoever failed it; data of other mails is left as it is.
local function scrub(hash)
  local data = redis.call("HGET", hash, "data")
  if data and string.find(data, '"otpCode"', 1, true) then
    redis.call("HSET", hash, "data", (string.gsub(data, '("otpCode"%s*:%s*)"[^"]*"', '%1"[scrubbed]"')))
  end
end

local function give_up(failed, base, id, now, reason, val)
  local hash = base .. id
  local found = redis.call("HMGET", hash, "opts", "deid")
  local remove, count, age = read_retention(found[1])
  release_debounce(base, found[2])
  if remove then
    redis.call("DEL", hash, hash .. ":logs")
  else
    redis.call("HSET", hash, "failedReason", reason, "finishedOn", now)
    scrub(hash)
    redis.call("ZADD", failed, now, id)
    trim(failed, base, tonumber(now), count, age)
  end
  redis.call("PUBLISH", failed, cjson.encode({jobId = id, val = val}))
end

-- One more in a counter of the job's; whatever stands there and is no number counts as none.
local function count_up(hash, field)
  local count = (tonumber(redis.call("HGET", hash, field)) or 0) + 1
  redis.call("HSET", hash, field, string.format("%.0f", count))
  return count
end

-- Whether there is a job under this id: Bull's workers leave hashes without one behind.
local function is_job(hash)
  local found = redis.pcall("HMGET", hash, "name", "data", "opts")
  return not found.err and (found[1] or found[2] or found[3]) and true or false
end
