-- Lets all daemons rest after a 429, and go slower for a while.
--
-- KEYS[1] flowstate:rate (hash)
--
-- ARGV[1] how long to rest, us
--
-- Returns 1
-- Publishes nothing
-- Agrees with no script of Bull 4: the key is ours. The time is the server's

-- @include rate_limit
-- @include rate_limit_state

local s = load_state(KEYS[1], 0)
back_off(s, read_clock(), tonumber(ARGV[1]))
save_state(KEYS[1], s)
return 1
