-- The arithmetic of the shared request rate. Pure: it touches no key, so that tests run it against time of their own.
-- All times are microseconds; 0 stands for none. A state `s` has
--   limit   requests a second that the provider allows · next  earliest next start, by the rhythm
--   hold    no start before this, after a 429 · stretch, slowed  by how much we go slower than allowed, as of when
--   urgent  until when the next start belongs to an urgent request · bucket, starts, before  what was started lately
--
-- The provider counts in windows of a second, and nobody tells when they begin. So starts are spread evenly, and a
-- little wider than the limit asks for: `limit` + 1 of them never fall into one second, wherever that begins.
local SECOND = 1000000
local ROOM = 1.05 -- limit + 1 starts span as many seconds: leaves 50 ms for late starts and uneven ways
local CATCH_UP = 15000 -- as much of a late start is made good by the next one
local GRACE = 50000 -- an urgent request that does not come for its start by then has lost it
local HARDER, EASIER, SLOWEST = 1.1, 0.01, 4 -- a tenth slower at each 429, a hundredth faster each second
local LONGEST_HOLD = 300 * SECOND
local BUCKET = 2 * SECOND

local function slowdown_factor(s, now)
  return math.max(1, s.stretch - EASIER * math.max(0, now - s.slowed) / SECOND)
end

local function space_of(s, now)
  return s.limit > 0 and SECOND * ROOM / s.limit * slowdown_factor(s, now) or 0
end

-- Starts are counted in two buckets: together they cover at least the last two seconds.
local function rotate_bucket(s, now)
  local bucket = math.floor(now / BUCKET)
  if bucket ~= s.bucket then
    s.before = bucket == s.bucket + 1 and s.starts or 0
    s.bucket, s.starts = bucket, 0
  end
end

-- May a request start now? Returns 0, or how long to wait before asking again. `pause` is what is left of a pause of
-- all that is not urgent. An urgent request that has to wait owns the next start, whoever else asks for it.
local function try_acquire(s, now, urgent, pause)
  if not urgent and pause > 0 then
    return pause
  end
  local space = space_of(s, now)
  -- A clock that was set back, or a limit that was raised, must not leave us waiting for a time far away.
  s.next, s.hold = math.min(s.next, now + space), math.min(s.hold, now + LONGEST_HOLD)
  local opens = math.max(s.next, s.hold)
  if opens > now then
    s.urgent = urgent and opens + GRACE or s.urgent
    return opens - now
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
  s.next = math.max(s.next, now - CATCH_UP) + space
  rotate_bucket(s, now)
  s.starts = s.starts + 1
  return 0
end

-- The provider has said what it allows. That nothing remains is what our own starts lead to; when they do not explain
-- it, or were not counted, somebody else uses the same account: wait for the next window.
local function update_limit(s, now, limit, remaining, reset)
  local is_news = s.limit ~= limit
  s.limit = limit
  rotate_bucket(s, now)
  if remaining < 1 and (is_news or limit - remaining > s.starts + s.before) then
    s.hold = math.max(s.hold, now + math.min(reset, LONGEST_HOLD))
  end
end

-- The provider has refused a request as one too many. Several under way at once count as one refusal.
local function back_off(s, now, after)
  s.hold = math.max(s.hold, now + math.min(after, LONGEST_HOLD))
  if math.abs(now - s.slowed) >= SECOND then
    s.stretch, s.slowed = math.min(slowdown_factor(s, now) * HARDER, SLOWEST), now
  end
end
