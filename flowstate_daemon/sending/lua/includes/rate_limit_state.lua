-- Reads and writes the state of `rate_limit`. The clock is the server's, so that all daemons use the same time.
local FIELDS = {"limit", "next", "hold", "slowdown", "slowed_at", "urgent", "bucket", "starts", "before"}
local TTL_MS = 24 * 3600 * 1000 -- a limit that no response has confirmed for a day is dropped
local stored = {}

local function read_clock()
  local time = redis.call("TIME")
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- `assumed` is used while the provider's limit is unknown.
local function load_state(key, assumed)
  local s = {}
  for i, value in ipairs(redis.call("HMGET", key, unpack(FIELDS))) do
    stored[FIELDS[i]] = tonumber(value or "")
    s[FIELDS[i]] = stored[FIELDS[i]] or 0
  end
  if s.limit == 0 then
    s.limit, stored.limit = assumed, assumed
  end
  return s
end

local function save_state(key, s, is_confirmed)
  local changed = {}
  for _, field in ipairs(FIELDS) do
    if s[field] ~= (stored[field] or 0) then
      changed[#changed + 1] = field
      changed[#changed + 1] = string.format("%.17g", s[field])
    end
  end
  if #changed > 0 then
    redis.call("HSET", key, unpack(changed))
  end
  if is_confirmed or (#changed > 0 and not stored.next) then
    redis.call("PEXPIRE", key, TTL_MS)
  end
end
