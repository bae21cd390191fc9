-- Publishes what one daemon knows of the provider, for `provider status`. It is forgotten unless it is repeated.
--
-- KEYS[1] flowstate:provider-states (hash + PX)
--
-- ARGV[1] instance id
-- ARGV[2] state, JSON; "" while the provider accepts emails
-- ARGV[3] time to live, ms
--
-- Returns nothing
-- Publishes nothing
-- Agrees with no script of Bull 4: the key is ours. Time is the server's

-- @include rate_limit_state

if ARGV[2] == "" then
  redis.call("HDEL", KEYS[1], ARGV[1])
else
  redis.call("HSET", KEYS[1], ARGV[1], string.format("%.0f:%s", read_clock() / 1000, ARGV[2]))
  redis.call("PEXPIRE", KEYS[1], ARGV[3])
end
