-- Moves all ids of one list of waiting jobs into another, which Bull's RENAME would overwrite.
-- Of both lists the tail runs first. The more urgent tail is taken first; of two equal ones the one in `elder`, which
-- is one of the two lists. An id that is in both lists is kept once. The order within each list stays.
local CHUNK = 5000

local function merge_lists(from, into, elder, priorities)
  if redis.call("EXISTS", from) == 0 then
    return
  end
  if redis.call("EXISTS", into) == 0 then
    redis.call("RENAME", from, into)
    return
  end

  local function rank(id)
    return tonumber(redis.call("ZSCORE", priorities, id)) or math.huge
  end

  local younger = elder == from and into or from
  local a, b = redis.call("LRANGE", younger, 0, -1), redis.call("LRANGE", elder, 0, -1)
  local i, j, merged, seen = #a, #b, {}, {}
  local rank_a, rank_b = i > 0 and rank(a[i]), j > 0 and rank(b[j])
  while i > 0 or j > 0 do
    local id
    if i == 0 or (j > 0 and rank_b <= rank_a) then
      id, j = b[j], j - 1
      rank_b = j > 0 and rank(b[j])
    else
      id, i = a[i], i - 1
      rank_a = i > 0 and rank(a[i])
    end
    if not seen[id] then
      seen[id] = true
      merged[#merged + 1] = id
    end
  end
  redis.call("DEL", from, into)
  for first = 1, #merged, CHUNK do
    redis.call("LPUSH", into, unpack(merged, first, math.min(first + CHUNK - 1, #merged)))
  end
end

-- Whether both keys are lists or absent. Otherwise nothing may be moved.
local function are_lists(one, other)
  for _, key in ipairs({one, other}) do
    local kind = redis.call("TYPE", key).ok
    if kind ~= "list" and kind ~= "none" then
      return false
    end
  end
  return true
end
