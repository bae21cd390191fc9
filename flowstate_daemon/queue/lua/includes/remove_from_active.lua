-- Removes jobs that the caller has locked from `active` and releases their locks. First `read_locks`, then
-- `remove_from_active` for each job, then `release_locks` once. Codes are Bull's: 0 removed; -1 no such job; -2 no
-- lock; -3 not in `active`; -6 locked by another worker. A job's lock is checked before anything of it is written.
local freed, free_locks = {}, {}

-- The lock holders of all jobs of this call. The keys of the jobs start at KEYS[first], `step` keys a job, the lock
-- second.
local function read_locks(first, step)
  local names = {}
  for at = first + 1, #KEYS, step do
    names[#names + 1] = KEYS[at]
  end
  return redis.call("MGET", unpack(names))
end

-- Whether the hash is still the claimed job: ids start at 1 again after `obliterate`, so the timestamp is compared.
local function same_time(stored, known)
  return stored == known or known == "0" or math.floor(tonumber(stored) or 0) == tonumber(known)
end

-- Returns the code, and on success the job's priority, debounce id and stored request id.
local function remove_from_active(active, hash, lock, holder, token, id, timestamp)
  local found = redis.pcall("HMGET", hash, "timestamp", "priority", "deid", "opts", "storedRequest")
  if found.err or not (found[1] or found[4]) or not same_time(found[1], timestamp) then
    return -1
  end
  if holder ~= token then
    return holder and -6 or -2
  end
  freed[#freed + 1], free_locks[#free_locks + 1] = id, lock
  if redis.call("LREM", active, -1, id) == 0 then
    return -3
  end
  return 0, found[2], found[3], found[5]
end

local function release_locks(stalled)
  if #freed > 0 then
    redis.call("SREM", stalled, unpack(freed))
    redis.call("DEL", unpack(free_locks))
  end
end
