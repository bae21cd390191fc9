-- The arithmetic of the shared rate limit. Pure: it uses no key, so tests run it with their own clock.
-- All times are in microseconds; 0 means none. A state `s` has
--   limit   allowed requests a second · next  earliest time of the next request
--   hold    no request before this time, after a 429 · slowdown, slowed_at  factor by which requests are slower, since
--   urgent  until this time the next request is reserved for an urgent one · bucket, starts, before  recent requests
--
-- The provider counts in one-second intervals, whose begin is unknown. So requests are spread evenly, a little wider
-- than the limit requires: no second, wherever it begins, contains `limit` + 1 of them.
local SECOND = 1000000
local SPACING = 1.05 -- limit + 1 requests span this many seconds: leaves 50 ms for late starts and uneven latency
local CATCH_UP = 15000 -- how much of a late start the next one may make up for
local GRACE = 50000 -- how long a token stays reserved for an urgent request
local HARDER, EASIER, MAX_SLOWDOWN = 1.1, 0.01, 4 -- a tenth slower at each 429, a hundredth faster each second
local MAX_HOLD = 300 * SECOND
local BUCKET = 2 * SECOND

local function slowdown_factor(s, now)
  return math.max(1, s.slowdown - EASIER * math.max(0, now - s.slowed_at) / SECOND)
end

local function interval(s, now)
  return s.limit > 0 and SECOND * SPACING / s.limit * slowdown_factor(s, now) or 0
end

-- Requests are counted in two buckets, which together cover at least the last two seconds.
local function rotate_bucket(s, now)
  local bucket = math.floor(now / BUCKET)
  if bucket ~= s.bucket then
    s.before = bucket == s.bucket + 1 and s.starts or 0
    s.bucket, s.starts = bucket, 0
  end
end

-- Returns 0 when a request may start now, or how long to wait before the next try. `pause` is the remaining pause of
-- bulk email. An urgent request that has to wait reserves the next token.
local function try_acquire(s, now, urgent, pause)
  if not urgent and pause > 0 then
    return pause
  end
  local spacing = interval(s, now)
  -- After the clock was set back or the limit was raised, these times must not lie far in the future.
  s.next, s.hold = math.min(s.next, now + spacing), math.min(s.hold, now + MAX_HOLD)
  local available = math.max(s.next, s.hold)
  if available > now then
    s.urgent = urgent and available + GRACE or s.urgent
    return available - now
  end
  s.hold = 0
  if s.limit == 0 then
    return 0
  end
  if urgent then
    s.urgent = 0
  elseif s.urgent > now and s.urgent <= now + GRACE then
    return s.urgent - now
  end
  s.next = math.max(s.next, now - CATCH_UP) + spacing
  rotate_bucket(s, now)
  s.starts = s.starts + 1
  return 0
end

-- Stores the limit from a response. Our own requests explain that none remains; when they do not, or were not counted,
-- another client uses the same account: wait for the next window.
local function update_limit(s, now, limit, remaining, reset)
  local is_new = s.limit ~= limit
  s.limit = limit
  rotate_bucket(s, now)
  if remaining < 1 and (is_new or limit - remaining > s.starts + s.before) then
    s.hold = math.max(s.hold, now + math.min(reset, MAX_HOLD))
  end
end

-- The provider has rejected a request with 429. Rejections within a second count once, because several requests may
-- be in flight.
local function back_off(s, now, after)
  s.hold = math.max(s.hold, now + math.min(after, MAX_HOLD))
  if math.abs(now - s.slowed_at) >= SECOND then
    s.slowdown, s.slowed_at = math.min(slowdown_factor(s, now) * HARDER, MAX_SLOWDOWN), now
  end
end
