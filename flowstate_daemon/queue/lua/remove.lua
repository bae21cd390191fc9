-- Deletes a job in any state, with everything that belongs to it.
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
-- KEYS[10] <id> (hash)
-- KEYS[11] <id>:lock (string)
-- KEYS[12] flowstate:journal (list)
--
-- ARGV[1] prefix of all keys of the queue
-- ARGV[2] id
-- ARGV[3] now, ms
-- ARGV[4] reason of the outcome `removed`, which every job gets whose email was not sent
-- ARGV[5] how many entries of the journal to keep; 0 = all
--
-- Returns 1 deleted; 0 no such job; -1 locked
-- Publishes nothing
-- Agrees with removeJob of Bull 4, but a debounce that another job holds stays

-- @include delete_job
-- @include journal
-- @include job_outcome

local base, id = ARGV[1], ARGV[2]

if redis.call("EXISTS", KEYS[11]) == 1 then
  return -1
end
local found = redis.call("TYPE", KEYS[10]).ok == "hash" and 1 or 0
if found == 1 and not redis.call("ZSCORE", KEYS[1], id) then
  add_entry(0, outcome_entry(base, id, ARGV[3], "removed", ARGV[4]))
end
for i = 1, 3 do
  found = found + redis.call("ZREM", KEYS[i], id)
end
for i = 4, 6 do
  found = found + redis.call("LREM", KEYS[i], 0, id)
end
delete_job(base, KEYS[7], KEYS[8], KEYS[9], id)
write_journal(KEYS[12], tonumber(ARGV[5]))
return found > 0 and 1 or 0
