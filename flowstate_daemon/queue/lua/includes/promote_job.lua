-- Moves a delayed job to the list of ready jobs. Needs the include `add_to_wait`. An id without a hash is only removed
-- from `delayed`. Returns whether a job was moved.
local function promote_job(delayed, target, priorities, base, id, waiting)
  local hash = base .. id
  local is_job = redis.call("TYPE", hash).ok == "hash"
  if redis.call("ZREM", delayed, id) == 0 or not is_job then
    return false
  end
  add_to_wait(target, priorities, redis.call("HGET", hash, "priority"), {id}, "back")
  redis.call("HSET", hash, "delay", 0)
  redis.call("PUBLISH", waiting, id)
  return true
end
