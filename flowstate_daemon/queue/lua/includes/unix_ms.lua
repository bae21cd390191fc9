-- The time that a producer wrote, in ms; nil if it is none. Seconds, ms, microseconds and nanoseconds of the years 1973 to
-- 5138 do not overlap. Agrees with `unix_ms` in job.py.
local function unix_ms(text)
  local at = type(text) == "string" and tonumber(text)
  if not at or at < 1e8 or at >= 1e20 then
    return nil
  elseif at < 1e11 then
    return at * 1000
  elseif at < 1e14 then
    return at
  end
  return math.floor(at / (at < 1e17 and 1e3 or 1e6))
end
