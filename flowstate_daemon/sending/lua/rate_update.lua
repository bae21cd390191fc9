-- Takes note of the request rate that an answer of the provider has told.
--
-- KEYS[1] flowstate:rate (hash + PX)
--
-- ARGV[1] requests a second that it allows
-- ARGV[2] how many of them remain in its present window
-- ARGV[3] how long that window lasts, us
--
-- Returns 1
-- Publishes nothing
-- Agrees with no script of Bull 4: the key is ours. The time is the server's

-- @include rate_limit
-- @include rate_limit_state

local s = load_state(KEYS[1], 0)
update_limit(s, read_clock(), tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]))
save_state(KEYS[1], s, true)
return 1
