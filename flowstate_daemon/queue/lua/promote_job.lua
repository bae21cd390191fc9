-- Promotes one delayed job: it is ready at once.
--
-- KEYS[1] delayed (zset)
-- KEYS[2] wait (list)
-- KEYS[3] paused (list)
-- KEYS[4] meta-paused (string)
-- KEYS[5] priority (zset)
-- KEYS[6] <id> (hash)
--
-- ARGV[1] prefix of all keys of the queue
-- ARGV[2] id
-- ARGV[3] channel waiting@token
--
-- Returns 1 done; 0 no such job; -2 not delayed
-- Publishes waiting@token: id
-- Agrees with promote of Bull 4, but checks the job before it writes

-- @include add_to_wait
-- @include promote_job

local base, id = ARGV[1], ARGV[2]

if redis.call("TYPE", KEYS[6]).ok ~= "hash" then
  return 0
end
if not redis.call("ZSCORE", KEYS[1], id) then
  return -2
end
promote_job(KEYS[1], target_list(KEYS[4], KEYS[2], KEYS[3]), KEYS[5], base, id, ARGV[3])
return 1
