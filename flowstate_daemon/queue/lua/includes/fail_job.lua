-- Fails a job that no worker holds any more. Needs the includes `retention`, `debounce`, `journal`, `job_outcome` and
-- `redact`; the caller calls `write_journal` at the end. `val` is the `val` of the published event, `rules` those of
-- `redact`.

-- Parses removeOnFail in any form that producers write. Returns whether to remove this job, count, age.
local function read_retention(opts)
  local known, parsed = pcall(cjson.decode, opts or "")
  local policy = known and type(parsed) == "table" and parsed.removeOnFail
  local kind = type(policy)
  local count, age
  if kind == "table" then
    count, age = tonumber(policy.count), tonumber(policy.age)
  elseif kind == "number" then
    count = policy
  elseif kind == "string" then
    count = policy ~= "" and 0 or nil
  elseif kind == "boolean" then
    count = policy and 0 or nil
  end
  if count and not (count >= 0) then
    count = nil
  end
  return count == 0, count and math.ceil(count), age
end

-- Redacts the secrets in the data of a failed job; other data stays as it is.
local function redact_data(hash, rules)
  local data = redis.call("HGET", hash, "data")
  local redacted = data and redact_json(data, cjson.decode(rules))
  if redacted ~= data then
    redis.call("HSET", hash, "data", redacted)
  end
end

local function fail_job(failed, base, id, now, reason, val, rules)
  local hash = base .. id
  add_entry(0, outcome_entry(base, id, now, "failed", reason))
  local found = redis.call("HMGET", hash, "opts", "deid")
  local remove, count, age = read_retention(found[1])
  release_debounce(base, found[2])
  if remove then
    redis.call("DEL", hash, hash .. ":logs")
  else
    redis.call("HSET", hash, "failedReason", reason, "finishedOn", now)
    redact_data(hash, rules)
    redis.call("ZADD", failed, now, id)
    trim(failed, base, tonumber(now), count, age)
  end
  redis.call("PUBLISH", failed, cjson.encode({jobId = id, val = val}))
end

-- Increments a counter in the job's hash; a value that is not a number counts as 0.
local function increment(hash, field)
  local count = (tonumber(redis.call("HGET", hash, field)) or 0) + 1
  redis.call("HSET", hash, field, string.format("%.0f", count))
  return count
end

-- Whether the hash is a job: Bull's workers create hashes that are not.
local function is_job(hash)
  local found = redis.pcall("HMGET", hash, "name", "data", "opts")
  return not found.err and (found[1] or found[2] or found[3]) and true or false
end
