-- Saves a request before its first try: its bytes and its idempotency key; each of its jobs gets a reference to it.
-- If the caller has lost one of the jobs, nothing is written: another worker has its lock, or the caller itself claimed
-- it again, after a failover that lost writes, and has put it into another request meanwhile. The number does not tell
-- which of two runs is the newer one: Redis may have lost the number of the older one.
--
-- KEYS[1] flowstate:request:<stored request id> (hash + PX)
-- then 2 for each member: <id> (hash) · <id>:lock (string)
--
-- ARGV[1] token of the worker
-- ARGV[2] stored request id
-- ARGV[3] body, compressed
-- ARGV[4] idempotency key
-- ARGV[5] path
-- ARGV[6] members, JSON
-- ARGV[7] now, ms
-- ARGV[8] time to live, ms
-- ARGV[9] how many requests contain each member, JSON
-- then 3 for each member: timestamp as read at the claim · how many requests contain it, this one included · ids of the
--   requests that this run of the caller has detached it from, with spaces between
--
-- Returns the positions, from 1, of refused members (not locked by the caller, no such job, or in another request than
--   these); empty when saved
-- Publishes nothing
-- Agrees with no script of Bull 4: the key and the fields `storedRequest` and `requests` are ours

-- @include remove_from_active
-- @include write_request

local locks, refused = read_locks(2, 2), {}

for member = 1, #locks do
  local at = 7 + 3 * member
  local found = redis.pcall("HMGET", KEYS[2 * member], "timestamp", "opts", "storedRequest")
  local is_there = not found.err and (found[1] or found[2]) and same_time(found[1], ARGV[at])
  local is_elsewhere = is_there and found[3] and found[3] ~= "" and found[3] ~= ARGV[2]
    and not string.find(ARGV[at + 2], found[3], 1, true) -- the detachment was lost
  if not is_there or is_elsewhere or locks[member] ~= ARGV[1] then
    refused[#refused + 1] = member
  end
end
if #refused > 0 then
  return refused
end
redis.call("DEL", KEYS[1])
write_request(KEYS[1], #locks)
for member = 1, #locks do
  redis.call("HSET", KEYS[2 * member], "storedRequest", ARGV[2], "requests", ARGV[8 + 3 * member])
end
return refused
