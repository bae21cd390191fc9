-- Tells what is left of some jobs, and what this Redis remembers.
--
-- KEYS[1] flowstate:epoch (string)
-- then <id> (hash) of each job
--
-- ARGV[1] a name for the memory, if it has none
--
-- Returns {name of the memory, then for each job: 0 no trace of it, 1 it is there, 2 it has failed for good}
-- Publishes nothing
-- Agrees with isFinished of Bull 4, as far as failed jobs are kept

-- @include store_epoch

local answer = {memory_of(KEYS[1], ARGV[1])}
for i = 2, #KEYS do
  local trace = 0
  if redis.call("TYPE", KEYS[i]).ok == "hash" then
    local ended = redis.call("HMGET", KEYS[i], "finishedOn", "failedReason")
    trace = (ended[1] and ended[2]) and 2 or 1
  end
  answer[i] = trace
end
return answer
