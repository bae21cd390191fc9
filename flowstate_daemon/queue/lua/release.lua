-- Releases up to 100 jobs without an attempt: to the front of the list of ready jobs, or to `delayed`.
--
-- KEYS[1] active (list)
-- KEYS[2] wait (list)
-- KEYS[3] paused (list)
-- KEYS[4] meta-paused (string)
-- KEYS[5] delayed (zset; also the channel)
-- KEYS[6] priority (zset)
-- KEYS[7] stalled (set)
-- then 2 for each job: <id> (hash) · <id>:lock (string)
--
-- ARGV[1] token of the worker
-- ARGV[2] due, ms, or 0 = now
-- then 3 for each job, first to run first: id · timestamp as read at the claim · score suffix
--
-- Returns Bull's code for each job: 0 done; -1 no such job; -2 no lock; -3 not in active; -6 locked by another worker
-- Publishes delayed: due time
-- Agrees with no script of Bull 4; lists, locks and scores are as after its retryJob

-- @include add_to_wait
-- @include remove_from_active
-- @include misplaced_job

local misplaced = misplaced_job(1, 7)
if misplaced then
  return misplaced
end

local token, due = ARGV[1], tonumber(ARGV[2])
local locks, codes = read_locks(8, 2), {}
local target = target_list(KEYS[4], KEYS[2], KEYS[3])
local later = false

-- In reverse: each job is put before those that were released earlier, so the first one runs first.
for job = #locks, 1, -1 do
  local key, at = 6 + 2 * job, 3 * job
  local id = ARGV[at]
  local code, priority = remove_from_active(KEYS[1], KEYS[key], KEYS[key + 1], locks[job], token, id, ARGV[at + 1])
  codes[job] = code
  if code == 0 and due > 0 then
    redis.call("ZADD", KEYS[5], string.format("%.0f", due * 4096 + tonumber(ARGV[at + 2])), id)
    later = true
  elseif code == 0 then
    add_to_wait(target, KEYS[6], priority, {id}, "front")
  end
end
release_locks(KEYS[7])
if later then
  redis.call("PUBLISH", KEYS[5], ARGV[2])
end
return codes
