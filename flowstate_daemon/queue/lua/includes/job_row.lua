-- The fields of a job that a worker needs, or nil when the key is not a job. Data longer than `max_data_bytes` is not
-- returned; its length is the eleventh member then.
local function job_row(hash, id, max_data_bytes)
  local length = redis.pcall("HSTRLEN", hash, "data")
  if type(length) ~= "number" then
    return nil
  end
  local data = length > max_data_bytes and "" or "data"
  local row = redis.call(
    "HMGET", hash, "name", data, "opts", "timestamp", "attemptsMade", "priority", "stacktrace", "storedRequest",
    "requests"
  )
  if length == 0 and not row[1] and not row[3] then
    return nil
  end
  row[10] = id
  row[11] = length > max_data_bytes and length or nil
  return row
end
