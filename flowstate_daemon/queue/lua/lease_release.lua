-- Releases the lease of an instance id, if the caller still holds it.
--
-- KEYS[1] flowstate:instance:<id> (string + PX)
--
-- ARGV[1] token of the holder
--
-- Returns 1 released; 0 the caller did not hold it
-- Publishes nothing
-- Agrees with no script of Bull 4: the key is ours

local token = ARGV[1]

if redis.call("GET", KEYS[1]) == token then
  return redis.call("DEL", KEYS[1])
end
return 0
