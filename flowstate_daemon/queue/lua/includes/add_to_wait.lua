-- The list for ready jobs: `paused` while the queue is paused, else `wait`. Call it in the script that pushes: Bull's
-- resume renames `paused` over `wait`, which destroys jobs that were pushed to the wrong list.
local function target_list(meta_paused, wait, paused)
  return redis.call("EXISTS", meta_paused) == 1 and paused or wait
end

-- The priority as a number; 0 (no priority) when it is not usable.
local function rank_of(priority)
  local rank = tonumber(priority)
  return rank and rank == rank and rank or 0
end

-- Inserts ids so that `ahead` other jobs run before them and ids[1] runs first of the inserted ones.
-- The tail of the list runs first. LINSERT scans from the head, so when few ids are ahead it is cheaper to pop and
-- push them again.
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

-- Adds ids of one priority to a list of ready jobs, ids[1] first. Jobs with a priority run before all others, small
-- numbers first. Modes:
--   back   after all jobs of the same priority, as Bull adds jobs
--   lifo   the same, but a job without priority before all others, the last id first, as Bull's `lifo`
--   front  before all jobs of the same priority, after more urgent ones; without priority: after all with priority
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
