-- Deletes a stored request that its worker is not going to send, and detaches its jobs.
-- If another worker may have, or will claim, a job that refers to it, the request is kept: it may be sent.
--
-- KEYS[1] flowstate:request:<stored request id> (hash)
-- KEYS[2] flowstate:withdrawn:<stored request id> (string + PX)
-- then 2 for each member: <id> (hash) · <id>:lock (string)
--
-- ARGV[1] token of the worker
-- ARGV[2] stored request id
-- ARGV[3] how long to remember that its worker has not sent it, ms
-- then 1 for each member: how many other requests contain it; "" if its lock is known to be lost
--
-- Returns {1, then the positions, from 1, of jobs whose lock is lost}; {0} the request is kept
-- Publishes nothing
-- Agrees with no script of Bull 4: the keys and the fields `storedRequest` and `requests` are ours

-- @include remove_from_active

local locks, owned, result = read_locks(3, 2), {}, {1}

redis.call("SET", KEYS[2], 1, "PX", ARGV[3])
for member = 1, #locks do
  local is_bound = redis.pcall("HGET", KEYS[1 + 2 * member], "storedRequest") == ARGV[2]
  if locks[member] ~= ARGV[1] or ARGV[3 + member] == "" then
    if is_bound then
      return {0}
    end
    result[#result + 1] = member
  elseif is_bound then
    owned[#owned + 1] = member
  end
end
for _, member in ipairs(owned) do
  local hash = KEYS[1 + 2 * member]
  redis.call("HDEL", hash, "storedRequest")
  redis.call("HSET", hash, "requests", ARGV[3 + member])
end
redis.call("DEL", KEYS[1])
return result
