-- Renews the lease of an instance id; acquires it again when it has expired and has no new holder.
--
-- KEYS[1] flowstate:instance:<id> (string + PX)
--
-- ARGV[1] token of the holder
-- ARGV[2] time to live, ms
--
-- Returns 1 held; 0 another token holds it
-- Publishes nothing
-- Agrees with no script of Bull 4: the key is ours

local token, ttl = ARGV[1], ARGV[2]
local holder = redis.call("GET", KEYS[1])

if holder and holder ~= token then
  return 0
end
redis.call("SET", KEYS[1], token, "PX", ttl)
return 1
