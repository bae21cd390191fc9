-- The outcome of a job that no worker holds, for the journal.
local MAX_DATA_BYTES, MAX_ADDRESS_BYTES = 1048576, 320

-- The integer in a hash field, or `default` when it is absent, negative or larger than `max`.
local function to_integer(text, max, default)
  local number = tonumber(text or "") or default
  return number >= 0 and number <= max and math.floor(number) or default
end

-- The recipient's address from the job's data, or nil.
local function recipient(hash)
  if redis.call("HSTRLEN", hash, "data") > MAX_DATA_BYTES then
    return nil
  end
  local known, data = pcall(cjson.decode, redis.call("HGET", hash, "data") or "")
  local to = known and type(data) == "table" and data.to
  return type(to) == "string" and #to <= MAX_ADDRESS_BYTES and to or nil
end

-- The journal entry, in the format of worker/results.py and database/ledger.py.
local function outcome_entry(base, id, now, outcome, reason)
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
    outcome = outcome,
    reason = reason,
  })
end
