-- Sealed requests whose members end. First `count_member` for each member, then `release_requests` once: it counts
-- down what is left of each, and deletes the envelope with its last member.
local left_by = {}

local function count_member(id)
  if id and id ~= "" then
    left_by[id] = (left_by[id] or 0) + 1
  end
end

-- `key_of` tells the key of an envelope by its id.
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
