-- Moves one failed job back to the ready jobs.
--
-- KEYS[1] failed (zset)
-- KEYS[2] wait (list)
-- KEYS[3] paused (list)
-- KEYS[4] meta-paused (string)
-- KEYS[5] priority (zset)
--
-- ARGV[1] prefix of all keys of the queue
-- ARGV[2] id
-- ARGV[3] now, ms
-- ARGV[4] channel waiting@token
--
-- Returns 1 done; 0 no such job; -1 locked; -2 not failed
-- Publishes waiting@token: id
-- Agrees with reprocessJob of Bull 4 in its result, with two differences: it checks everything before it writes, and it
-- adds the job by the priority in its hash, so that a retried one-time code does not wait behind bulk email

-- @include add_to_wait
-- @include retry_job

local target = target_list(KEYS[4], KEYS[2], KEYS[3])
return retry_job(KEYS[1], target, KEYS[5], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
