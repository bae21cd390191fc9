-- Everything that is stored of one job: locked (0 or 1), number of log rows, all fields of its hash.
-- No fields when the key is absent or not a hash. The arguments are full keys.
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
