-- Stored requests whose members have finished. First `count_member` for each member, then `release_requests` once: it
-- decrements the number of open members of each request, and deletes a request with its last one.
local left_by = {}

local function count_member(id)
  if id and id ~= "" then
    left_by[id] = (left_by[id] or 0) + 1
  end
end

-- `key_of` returns the key of a stored request by its id.
local function release_requests(key_of)
  for id, count in pairs(left_by) do
    local key = key_of(id)
    if redis.call("EXISTS", key) == 1 then
      local left = redis.pcall("HINCRBY", key, "left", -count)
      if type(left) == "number" and left <= 0 then
        redis.call("DEL", key)
      end
    end
  end
end
