-- Returns which of some jobs still exist, and the epoch of the store.
--
-- KEYS[1] flowstate:epoch (string)
-- then <id> (hash) of each job
--
-- ARGV[1] id of a new epoch, used when there is none
--
-- Returns {epoch, then for each job: 0 missing, 1 present, 2 failed}
-- Publishes nothing
-- Agrees with isFinished of Bull 4, as far as failed jobs are kept

-- @include store_epoch

local found = {store_epoch(KEYS[1], ARGV[1])}
for i = 2, #KEYS do
  local presence = 0
  if redis.call("TYPE", KEYS[i]).ok == "hash" then
    local finished = redis.call("HMGET", KEYS[i], "finishedOn", "failedReason")
    presence = (finished[1] and finished[2]) and 2 or 1
  end
  found[i] = presence
end
return found
