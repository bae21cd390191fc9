-- Detaches jobs from a stored request that the provider has rejected: the next try sends them in a new request.
-- If the caller has lost the lock of one of them, nothing is written: the new holder may send the stored bytes. So may
-- the caller itself, if it has claimed one of them again.
--
-- KEYS[1] flowstate:request:<stored request id> (hash)
-- then 2 for each member: <id> (hash) · <id>:lock (string)
--
-- ARGV[1] token of the worker
-- ARGV[2] stored request id
-- then 1 for each member: 1 if the caller's run of it was aborted, else 0
--
-- Returns 1 detached; 0 one of the locks is lost, or an aborted run's job is in the request
-- Publishes nothing
-- Agrees with no script of Bull 4: the key and the field `storedRequest` are ours

-- @include remove_from_active
-- @include stored_request

local locks, bound = read_locks(2, 2), {}

for member, holder in ipairs(locks) do
  local is_bound = redis.pcall("HGET", KEYS[2 * member], "storedRequest") == ARGV[2]
  if holder ~= ARGV[1] or (is_bound and ARGV[2 + member] == "1") then
    return 0
  end
  bound[#bound + 1] = is_bound and KEYS[2 * member] or nil
end
for _, hash in ipairs(bound) do
  redis.call("HDEL", hash, "storedRequest")
  count_member(ARGV[2])
end
release_requests(function() return KEYS[1] end)
return 1
