-- Remembers when the newest job of the backend was added. A sent job is deleted, so that nothing else would say it. Emails
-- of the daemon's schedules do not count: they would hide that the backend adds nothing any more. A producer's time in
-- the future counts as now. Needs `unix_ms`; the rows are those of `job_row`.
local function remember_last_added(key, rows, now)
  local newest = 0
  for _, row in ipairs(rows) do
    local at = string.sub(row[10], 1, 10) ~= "scheduled." and unix_ms(row[4])
    if at and at > newest then
      newest = math.min(at, now)
    end
  end
  -- After the jobs were moved: a key of another type must not make the claim fail.
  if newest > 0 and newest > (tonumber(redis.pcall("GET", key)) or 0) then
    redis.call("SET", key, string.format("%.0f", newest))
  end
end
