-- Deletes the debounce key of a finished job, so that the next job with this debounce id is accepted. A key with a
-- time to live expires by itself.
local function release_debounce(base, debounce_id)
  if debounce_id then
    local key = base .. "de:" .. debounce_id
    local left = redis.call("PTTL", key)
    if left == -1 or left == 0 then
      redis.call("DEL", key)
    end
  end
end
