-- Saves the provider's response to a stored request, for jobs that are settled later or by another process.
--
-- KEYS[1] flowstate:request:<stored request id> (hash)
--
-- ARGV[1] response
--
-- Returns 1 done; 0 no such stored request
-- Publishes nothing
-- Agrees with no script of Bull 4: the key is ours

if redis.call("EXISTS", KEYS[1]) == 0 then
  return 0
end
redis.call("HSET", KEYS[1], "response", ARGV[1])
return 1
