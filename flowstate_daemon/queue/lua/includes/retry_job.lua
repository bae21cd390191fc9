-- Whether the email of a failed job may have been sent without proof: the job was parked for that
-- reason, or its stored request, whose outcome was never known, has expired since. A retry would send it again.
local function may_have_been_sent(base, hash)
  local found = redis.pcall("HMGET", hash, "maybeSent", "failedReason", "storedRequest")
  if found.err then
    return false
  end
  local reason, request_id = found[2] or "", found[3]
  return found[1] or string.sub(reason, 1, 7) == "parked:" or (request_id and request_id ~= ""
    and redis.call("EXISTS", base .. "flowstate:request:" .. request_id) == 0)
end

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
  redis.call("HDEL", hash, "finishedOn", "processedOn", "failedReason", "maybeSent")
  redis.call("HSET", hash, "retriedOn", now)
  local request_id = redis.call("HGET", hash, "storedRequest")
  if request_id and redis.call("EXISTS", base .. "flowstate:request:" .. request_id) == 0 then
    redis.call("HDEL", hash, "storedRequest")
  end
  add_to_wait(target, priorities, priority, {id}, lifo and "lifo" or "back")
  redis.call("PUBLISH", waiting, id)
  return 1
end
