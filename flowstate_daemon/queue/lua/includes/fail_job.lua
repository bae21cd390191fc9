-- Fails a job that no worker holds any more. Needs `retention`, `debounce` and `journal`, which is written at the end.
-- `val` is what the event says.
local LONGEST_DATA, LONGEST_ADDRESS = 1048576, 320

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
local function redact_codes(hash)
  local data = redis.call("HGET", hash, "data")
  if data and string.find(data, '"otpCode"', 1, true) then
    data = string.gsub(data, '("otpCode"%s*:%s*)"[^"]*"', '%1"[scrubbed]"')
    data = string.gsub(data, '("otpCode"%s*:%s*)[%w.+-]+', '%1"[scrubbed]"')
    redis.call("HSET", hash, "data", data)
  end
end

-- A whole number from a hash field, or what stands for none.
local function to_integer(text, most, otherwise)
  local number = tonumber(text or "") or otherwise
  return number >= 0 and number <= most and math.floor(number) or otherwise
end

-- For whom the mail would have been, if its data tells.
local function recipient(hash)
  if redis.call("HSTRLEN", hash, "data") > LONGEST_DATA then
    return nil
  end
  local known, data = pcall(cjson.decode, redis.call("HGET", hash, "data") or "")
  local to = known and type(data) == "table" and data.to
  return type(to) == "string" and #to <= LONGEST_ADDRESS and to or nil
end

-- The same entry as of a run that has failed in a worker's hands.
local function failure_entry(base, id, now, reason)
  local hash = base .. id
  local found = redis.call("HMGET", hash, "name", "timestamp", "attemptsMade")
  local attempt = to_integer(found[3], 1e9, 0) + 1
  return cjson.encode({
    key = string.format("%s%s:%.0f:%.0f", base, id, to_integer(found[2], 1e15, 0), attempt),
    at = tonumber(now),
    job_id = id,
    kind = string.sub(found[1] or "", 1, 100),
    to = recipient(hash),
    attempt = attempt,
    outcome = "failed",
    reason = reason,
  })
end

local function fail_job(failed, base, id, now, reason, val)
  local hash = base .. id
  add_entry(0, failure_entry(base, id, now, reason))
  local found = redis.call("HMGET", hash, "opts", "deid")
  local remove, count, age = read_retention(found[1])
  release_debounce(base, found[2])
  if remove then
    redis.call("DEL", hash, hash .. ":logs")
  else
    redis.call("HSET", hash, "failedReason", reason, "finishedOn", now)
    redact_codes(hash)
    redis.call("ZADD", failed, now, id)
    trim(failed, base, tonumber(now), count, age)
  end
  redis.call("PUBLISH", failed, cjson.encode({jobId = id, val = val}))
end

-- One more in a counter of the job's; whatever stands there and is no number counts as none.
local function increment(hash, field)
  local count = (tonumber(redis.call("HGET", hash, field)) or 0) + 1
  redis.call("HSET", hash, field, string.format("%.0f", count))
  return count
end

-- Whether there is a job under this id: Bull's workers leave hashes without one behind.
local function is_job(hash)
  local found = redis.pcall("HMGET", hash, "name", "data", "opts")
  return not found.err and (found[1] or found[2] or found[3]) and true or false
end
