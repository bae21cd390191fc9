-- Shows the shared request rate to a person.
--
-- KEYS[1] flowstate:rate (hash)
-- KEYS[2] flowstate:bulk-paused (string + PX)
-- KEYS[3] flowstate:provider-refused (string + PX)
--
-- ARGV[1] requests a second to assume while the provider has told none; 0 = no limit
--
-- Returns {requests a second, 0 = no limit; by how much we go slower; what is left of the rest after a 429, us;
--   what is left of the pause of all that is not urgent, ms; its reason; starts in the last two to four seconds;
--   why the provider refuses us, empty when it does not}
-- Publishes nothing
-- Agrees with no script of Bull 4: the keys are ours. The time is the server's

-- @include rate_limit
-- @include rate_limit_state

local now = read_clock()
local s = load_state(KEYS[1], tonumber(ARGV[1]))
rotate_bucket(s, now)
return {
  string.format("%.17g", s.limit),
  string.format("%.17g", slowdown_factor(s, now)),
  math.max(0, s.hold - now),
  math.max(0, redis.call("PTTL", KEYS[2])),
  redis.call("GET", KEYS[2]) or "",
  s.starts + s.before,
  redis.call("GET", KEYS[3]) or "",
}
