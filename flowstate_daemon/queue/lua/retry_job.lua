-- Gives one failed job another run.
--
-- KEYS[1] failed (zset)
-- KEYS[2] wait (list)
-- KEYS[3] paused (list)
-- KEYS[4] meta-paused (string)
-- KEYS[5] priority (zset)
--
-- ARGV[1] what all keys of the queue start with
-- ARGV[2] id
-- ARGV[3] now, ms
-- ARGV[4] channel waiting@token
--
-- Returns 1 done; 0 no such job; -1 locked; -2 not failed
-- Publishes waiting@token: id
-- Agrees with reprocessJob of Bull 4 in what it leaves behind, with two differences: it tests everything before it
-- writes, and it pushes by the hash's priority, so that a retried one-time code does not wait behind a newsletter

-- @include add_to_wait
-- @include retry_job

local target = target_list(KEYS[4], KEYS[2], KEYS[3])
return retry_job(KEYS[1], target, KEYS[5], ARGV[1], ARGV[2], ARGV[3], ARGV[4])
