-- Moves a failed job back to the ready jobs, with its stored request if that still exists. Needs the include
-- `add_to_wait`. Returns Bull's codes: 1 done; 0 no such job; -1 locked; -2 not failed.
local function retry_job(failed, target, priorities, base, id, now, waiting)
  local hash = base .. id
  if redis.call("TYPE", hash).ok ~= "hash" then
    return 0
  end
  if redis.call("EXISTS", hash .. ":lock") == 1 then
    return -1
  end
  if redis.call("ZREM", failed, id) == 0 then
    return -2
  end
  local priority = redis.call("HGET", hash, "priority")
  local known, opts = pcall(cjson.decode, redis.call("HGET", hash, "opts") or "")
  local lifo = known and type(opts) == "table" and opts.lifo == true
  redis.call("HDEL", hash, "finishedOn", "processedOn", "failedReason")
  redis.call("HSET", hash, "retriedOn", now)
  local request_id = redis.call("HGET", hash, "storedRequest")
  if request_id and redis.call("EXISTS", base .. "flowstate:request:" .. request_id) == 0 then
    redis.call("HDEL", hash, "storedRequest")
  end
  add_to_wait(target, priorities, priority, {id}, lifo and "lifo" or "back")
  redis.call("PUBLISH", waiting, id)
  return 1
end
