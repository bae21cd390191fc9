-- Binds a job again to a request that contained it before Redis lost its newest writes, and saves the request again if it
-- is missing.
--
-- KEYS[1] flowstate:request:<stored request id> (hash + PX)
-- KEYS[2] <id> (hash)
-- KEYS[3] <id>:lock (string)
--
-- ARGV[1] token of the worker
-- ARGV[2] stored request id
-- ARGV[3] body, compressed
-- ARGV[4] idempotency key
-- ARGV[5] path
-- ARGV[6] members, JSON
-- ARGV[7] when it was saved first, ms
-- ARGV[8] time to live, ms
-- ARGV[9] how many requests contain each member, JSON
-- ARGV[10] how many requests contain this job, this one included
--
-- Returns 1 bound; 0 the lock is lost
-- Publishes nothing
-- Agrees with no script of Bull 4: the key and the fields `storedRequest` and `requests` are ours

-- @include write_request

if redis.call("GET", KEYS[3]) ~= ARGV[1] or redis.call("EXISTS", KEYS[2]) == 0 then
  return 0
end
if redis.call("EXISTS", KEYS[1]) == 0 then
  write_request(KEYS[1], 0)
end
if redis.call("HGET", KEYS[2], "storedRequest") ~= ARGV[2] then
  redis.call("HINCRBY", KEYS[1], "left", 1)
end
redis.call("HSET", KEYS[2], "storedRequest", ARGV[2], "requests", ARGV[10])
return 1
