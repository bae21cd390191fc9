-- Where ready jobs go: `paused` while the queue is paused, else `wait`. Ask inside the script that pushes: resume()
-- renames `paused` over `wait`, so whatever was put into the wrong one is destroyed.
local function target_list(meta_paused, wait, paused)
  return redis.call("EXISTS", meta_paused) == 1 and paused or wait
end

-- A priority as some producer wrote it; nothing usable counts as none.
local function rank_of(priority)
  local rank = tonumber(priority)
  return rank and rank == rank and rank or 0
end

-- Puts a block of ids into a list so that `ahead` others run before them and ids[1] runs first of the block.
-- The list runs from its tail. LINSERT walks from the head, so a few at the tail are cheaper to take off and put back.
local function insert(list, ids, ahead)
  local length = redis.call("LLEN", list)
  if ahead >= length then
    redis.call("LPUSH", list, unpack(ids))
    return
  end
  if ahead * 30 < length then
    local block = {}
    for i = #ids, 1, -1 do
      block[#block + 1] = ids[i]
    end
    local urgent = ahead > 0 and redis.call("RPOP", list, ahead) or {}
    for i = #urgent, 1, -1 do
      block[#block + 1] = urgent[i]
    end
    for first = 1, #block, 5000 do
      redis.call("RPUSH", list, unpack(block, first, math.min(first + 4999, #block)))
    end
    return
  end
  local next_to_run = redis.call("LINDEX", list, length - ahead)
  for _, id in ipairs(ids) do
    redis.call("LINSERT", list, "BEFORE", next_to_run, id)
    next_to_run = id
  end
end

-- Makes ids of one priority ready to run, ids[1] first. Prioritised jobs run before all others, small numbers first.
--   back   behind all of the same priority, as Bull adds
--   lifo   the same, but an unprioritised job before everything, the last of the block first, as Bull's `lifo`
--   front  before all of the same priority, behind the more urgent; unprioritised: behind all prioritised jobs
local function add_to_wait(target, priorities, priority, ids, mode)
  local rank = rank_of(priority)
  if rank == 0 and mode == "lifo" then
    redis.call("RPUSH", target, unpack(ids))
  elseif rank == 0 and mode == "front" then
    insert(target, ids, redis.call("ZCARD", priorities))
  elseif rank == 0 then
    redis.call("LPUSH", target, unpack(ids))
  else
    local below = mode == "front" and "(" or ""
    local ahead = redis.call("ZCOUNT", priorities, "-inf", below .. string.format("%.17g", rank))
    local members = {}
    for i, id in ipairs(ids) do
      members[2 * i - 1], members[2 * i] = rank, id
    end
    redis.call("ZADD", priorities, unpack(members))
    insert(target, ids, ahead)
  end
end
