-- Frees members of a sealed request that the provider has refused: whatever is sent for them next is a new request.
-- If one of them is not the caller's any more, nothing is written: its new holder may send the sealed bytes.
--
-- KEYS[1] flowstate:request:<envelope id> (hash)
-- then 2 for each member: <id> (hash) · <id>:lock (string)
--
-- ARGV[1] token of the worker
-- ARGV[2] envelope id
--
-- Returns 1 free; 0 one of them is lost
-- Publishes nothing
-- Agrees with no script of Bull 4: key and field `envelope` are ours

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
