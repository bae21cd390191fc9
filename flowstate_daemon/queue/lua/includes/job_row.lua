-- The fields of a job as a worker needs them, or nothing when the hash is none; data longer than `longest` is left
-- behind, and its length told.
local function row_of(hash, id, longest)
  local length = redis.pcall("HSTRLEN", hash, "data")
  if type(length) ~= "number" then
    return nil
  end
  local data = length > longest and "" or "data"
  local row = redis.call(
    "HMGET", hash, "name", data, "opts", "timestamp", "attemptsMade", "priority", "stacktrace", "storedRequest"
  )
  if length == 0 and not row[1] and not row[3] then
    return nil
  end
  row[9] = id
  row[10] = length > longest and length or nil
  return row
end
