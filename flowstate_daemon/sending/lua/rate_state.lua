-- Returns the state of the shared rate limit, for `provider status`.
--
-- KEYS[1] flowstate:rate (hash)
-- KEYS[2] flowstate:bulk-paused (string + PX)
-- KEYS[3] flowstate:provider-states (hash + PX)
--
-- ARGV[1] requests a second to assume while the provider's limit is unknown; 0 = no limit
-- ARGV[2] age from which on what a daemon published is ignored, ms
--
-- Returns {requests a second, 0 = no limit; slowdown factor; remaining block after a 429, us; remaining pause of bulk
--   email, ms; its reason; requests in the last two to four seconds; what each daemon published: {age, ms, JSON}}
-- Publishes nothing
-- Agrees with no script of Bull 4: the keys are ours. Time is the server's

-- @include rate_limit
-- @include rate_limit_state

local now = read_clock()
local s = load_state(KEYS[1], tonumber(ARGV[1]))
rotate_bucket(s, now)

local states = {}
local published = redis.call("HGETALL", KEYS[3])
for i = 2, #published, 2 do
  local at, state = string.match(published[i], "^(%d+):(.*)$")
  local age = at and math.max(0, now / 1000 - tonumber(at))
  if age and age < tonumber(ARGV[2]) then
    states[#states + 1] = {math.floor(age), state}
  end
end
return {
  string.format("%.17g", s.limit),
  string.format("%.17g", slowdown_factor(s, now)),
  math.max(0, s.hold - now),
  math.max(0, redis.call("PTTL", KEYS[2])),
  redis.call("GET", KEYS[2]) or "",
  s.starts + s.before,
  states,
}
