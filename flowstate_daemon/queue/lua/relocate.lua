-- Gives another id to each job that is stored in a key of the queue itself, because its id is the name of that key.
--
-- KEYS[1] wait (list)
-- KEYS[2] active (list)
-- KEYS[3] paused (list)
-- KEYS[4] delayed (zset)
-- KEYS[5] priority (zset)
-- KEYS[6] stalled (set)
-- KEYS[7] meta-paused (string)
-- KEYS[8] completed (zset)
-- KEYS[9] failed (zset)
-- KEYS[10] stalled-check (string)
-- KEYS[11] flowstate:journal (list)
--
-- ARGV[1] prefix of all keys of the queue; the keys of the jobs are built from it
--
-- Returns {old id, new id} for each job
-- Publishes nothing
-- Agrees with no script of Bull, which fails with WRONGTYPE: with such a job it can finish no other

-- @include add_to_wait

local base, relocated = ARGV[1], {}

local function unused_id(name)
  local number = 1
  while redis.call("EXISTS", base .. "renamed-" .. name .. "-" .. number) == 1 do
    number = number + 1
  end
  return "renamed-" .. name .. "-" .. number
end

-- Where the job was queued under its old id: its score in `delayed`, if any. Its other entries are removed.
local function remove_entries(name)
  for i = 1, 3 do
    redis.pcall("LREM", KEYS[i], 0, name)
  end
  redis.pcall("ZREM", KEYS[5], name)
  redis.pcall("SREM", KEYS[6], name)
  local score = redis.pcall("ZSCORE", KEYS[4], name)
  redis.pcall("ZREM", KEYS[4], name)
  redis.call("DEL", base .. name .. ":lock")
  return type(score) == "string" and score
end

local moved = {}
for i, key in ipairs(KEYS) do
  if redis.call("TYPE", key).ok == "hash" then
    local name = string.sub(key, #base + 1)
    local id = unused_id(name)
    redis.call("RENAME", key, base .. id)
    relocated[#relocated + 1] = {name, id}
    moved[#moved + 1] = {name, id}
  end
end
for _, pair in ipairs(moved) do
  local id = pair[2]
  local score = remove_entries(pair[1])
  local fields = redis.call("HMGET", base .. id, "delay", "timestamp", "priority")
  local delay, added = tonumber(fields[1] or "0"), tonumber(fields[2] or "0")
  if not score and delay and added and delay > 0 and delay < 1e15 and added < 1e15 then
    score = string.format("%.0f", (added + delay) * 4096)
  end
  if score then
    redis.call("ZADD", KEYS[4], score, id)
  else
    add_to_wait(target_list(KEYS[7], KEYS[1], KEYS[3]), KEYS[5], fields[3], {id}, "front")
  end
end
return relocated
