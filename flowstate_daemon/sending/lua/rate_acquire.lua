-- Acquires a request token: permission to start one request, at the rate that all daemons share.
--
-- KEYS[1] flowstate:rate (hash)
-- KEYS[2] flowstate:bulk-paused (string + PX)
--
-- ARGV[1] 1 = for urgent email, else 0
-- ARGV[2] requests a second to assume while the provider's limit is unknown; 0 = no limit
--
-- Returns {0, or how long to wait before the next try, us; requests a second, 0 = no limit; remaining pause of bulk
--   email, ms}
-- Publishes nothing
-- Agrees with no script of Bull 4: the keys are ours. Time is the server's

-- @include rate_limit
-- @include rate_limit_state

local now = read_clock()
local s = load_state(KEYS[1], tonumber(ARGV[2]))
local pause_ms = math.max(0, redis.call("PTTL", KEYS[2]))
local wait = try_acquire(s, now, ARGV[1] == "1", pause_ms * 1000)
save_state(KEYS[1], s)
return {math.ceil(wait), string.format("%.17g", s.limit), pause_ms}
