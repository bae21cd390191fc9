-- Deletes jobs of one recipient in any state, without an outcome for the ledger: nothing about them is kept.
--
-- KEYS[1] completed (zset)
-- KEYS[2] failed (zset)
-- KEYS[3] delayed (zset)
-- KEYS[4] active (list)
-- KEYS[5] wait (list)
-- KEYS[6] paused (list)
-- KEYS[7] priority (zset)
-- KEYS[8] stalled (set)
-- KEYS[9] limiter:index (hash)
-- then 2 for each job: <id> (hash) · <id>:lock (string)
--
-- ARGV[1] prefix of all keys of the queue
-- then 2 for each job: id · data as it was read; a job with other data is another one, and stays
--
-- Returns for each job: 1 deleted; 0 no such job; -1 locked by a worker; 2 deleted, but a stored request with other
-- emails still contains its email
-- Publishes nothing
-- Agrees with removeJob of Bull 4, but a debounce that another job holds stays

-- @include delete_job
-- @include stored_request

local base, results, request_of = ARGV[1], {}, {}

local function key_of(request_id)
  return base .. "flowstate:request:" .. request_id
end

for job = 1, (#KEYS - 9) / 2 do
  local hash, lock = KEYS[8 + 2 * job], KEYS[9 + 2 * job]
  local id, data = ARGV[2 * job], ARGV[2 * job + 1]
  if redis.call("TYPE", hash).ok ~= "hash" or redis.call("HGET", hash, "data") ~= data then
    results[job] = 0
  elseif redis.call("EXISTS", lock) == 1 then
    results[job] = -1
  else
    request_of[job] = redis.call("HGET", hash, "storedRequest")
    count_member(request_of[job])
    for i = 1, 3 do
      redis.call("ZREM", KEYS[i], id)
    end
    for i = 4, 6 do
      redis.call("LREM", KEYS[i], 0, id)
    end
    delete_job(base, KEYS[7], KEYS[8], KEYS[9], id)
    results[job] = 1
  end
end
release_requests(key_of)
for job, request_id in pairs(request_of) do
  if request_id and redis.call("EXISTS", key_of(request_id)) == 1 then
    results[job] = 2
  end
end
return results
