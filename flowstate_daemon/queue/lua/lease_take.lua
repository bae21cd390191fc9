-- Acquires the lease of an instance id when it is free, or when its holder is the one that the caller found dead.
--
-- KEYS[1] flowstate:instance:<id> (string + PX)
--
-- ARGV[1] token of the caller
-- ARGV[2] token of a dead holder that may be replaced; empty = none
-- ARGV[3] time to live, ms
--
-- Returns {1} acquired; {0, token of the holder, its remaining ms} otherwise
-- Publishes nothing
-- Agrees with no script of Bull 4: the key is ours

local token, dead, ttl = ARGV[1], ARGV[2], ARGV[3]
local holder = redis.call("GET", KEYS[1])

if not holder or holder == token or (dead ~= "" and holder == dead) then
  redis.call("SET", KEYS[1], token, "PX", ttl)
  return {1}
end
return {0, holder, redis.call("PTTL", KEYS[1])}
