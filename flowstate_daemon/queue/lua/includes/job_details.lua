-- What a person may want to know of one job: locked (0 or 1), number of log rows, all fields of its hash.
-- An id whose key is no hash, or that has no key, has no fields. Keys are passed in full.
local function job_details(hash, lock, logs)
  local fields, rows = {}, 0
  if redis.call("TYPE", hash).ok == "hash" then
    fields = redis.call("HGETALL", hash)
  end
  if redis.call("TYPE", logs).ok == "list" then
    rows = redis.call("LLEN", logs)
  end
  return redis.call("EXISTS", lock), rows, fields
end
