-- Deletes everything of a job except its entry in the list or zset of its state: hash, log, priority, entry in the
-- stalled set, its debounce key, its entries in Bull's rate limiter. A key that is not a hash is not a job and stays.
-- With `cleaned`, a job that has finished leaves a debounce with a time to live in effect, as in Bull: the next job with
-- that debounce id is refused until the time has passed, not until somebody deletes old jobs.
local function delete_job(base, priorities, stalled, limiter_index, id, cleaned)
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
  if debounce and not (cleaned and redis.call("HGET", hash, "finishedOn")) then
    local key = base .. "de:" .. debounce
    if redis.call("TYPE", key).ok == "string" and redis.call("GET", key) == id then
      redis.call("DEL", key)
    end
  end
  redis.call("DEL", hash, hash .. ":logs")
end
