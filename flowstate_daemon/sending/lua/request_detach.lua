-- Detaches jobs from a stored request that the provider has rejected: the next try sends them in a new request.
-- If the caller has lost the lock of one of them, nothing is written: the new holder may send the stored bytes.
--
-- KEYS[1] flowstate:request:<stored request id> (hash)
-- then 2 for each member: <id> (hash) · <id>:lock (string)
--
-- ARGV[1] token of the worker
-- ARGV[2] stored request id
--
-- Returns 1 detached; 0 one of the locks is lost
-- Publishes nothing
-- Agrees with no script of Bull 4: the key and the field `storedRequest` are ours

-- @include remove_from_active
-- @include stored_request

local locks = read_locks(2, 2)

for _, holder in ipairs(locks) do
  if holder ~= ARGV[1] then
    return 0
  end
end
for member = 1, #locks do
  local hash = KEYS[2 * member]
  if redis.pcall("HGET", hash, "storedRequest") == ARGV[2] then
    redis.call("HDEL", hash, "storedRequest")
    count_member(ARGV[2])
  end
end
release_requests(function() return KEYS[1] end)
return 1
