-- Stores the rate limit from the headers of a response of the provider.
--
-- KEYS[1] flowstate:rate (hash + PX)
--
-- ARGV[1] allowed requests a second
-- ARGV[2] requests that remain in the current window
-- ARGV[3] time until that window ends, us
--
-- Returns 1
-- Publishes nothing
-- Agrees with no script of Bull 4: the key is ours. Time is the server's

-- @include rate_limit
-- @include rate_limit_state

local s = load_state(KEYS[1], 0)
update_limit(s, read_clock(), tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]))
save_state(KEYS[1], s, true)
return 1
