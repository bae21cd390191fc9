-- Blocks the requests of all daemons after a 429, and slows them down for a while.
--
-- KEYS[1] flowstate:rate (hash)
--
-- ARGV[1] how long to block, us
--
-- Returns 1
-- Publishes nothing
-- Agrees with no script of Bull 4: the key is ours. Time is the server's

-- @include rate_limit
-- @include rate_limit_state

local s = load_state(KEYS[1], 0)
back_off(s, read_clock(), tonumber(ARGV[1]))
save_state(KEYS[1], s)
return 1
