-- Lets the next job with this debounce id in, once its holder has ended. One with a time to live runs out by itself.
local function release_debounce(base, debounce_id)
  if debounce_id then
    local key = base .. "de:" .. debounce_id
    local left = redis.call("PTTL", key)
    if left == -1 or left == 0 then
      redis.call("DEL", key)
    end
  end
end
