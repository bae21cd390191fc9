-- Deletes what belongs to a job beside the list or zset that it is in: hash, log, place among the priorities, mark
-- of the stalled check, the debounce if it is this job's, the traces of Bull's rate limiter. A key that is no hash,
-- and so no job, stays.
local function delete_job(base, priorities, stalled, limiter_index, id)
  local hash = base .. id
  redis.call("ZREM", priorities, id)
  redis.call("SREM", stalled, id)
  local limited = redis.call("HGET", limiter_index, id)
  if limited then
    redis.call("HDEL", limiter_index, id)
    if redis.call("TYPE", limited).ok == "set" then
      redis.call("SREM", limited, id)
    end
  end
  if redis.call("TYPE", hash).ok ~= "hash" then
    return
  end
  local debounce = redis.call("HGET", hash, "deid")
  if debounce then
    local key = base .. "de:" .. debounce
    if redis.call("TYPE", key).ok == "string" and redis.call("GET", key) == id then
      redis.call("DEL", key)
    end
  end
  redis.call("DEL", hash, hash .. ":logs")
end
