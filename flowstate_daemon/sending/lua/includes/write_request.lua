-- Writes a stored request from the arguments that request_save and request_adopt have in common; `left` is the number of
-- its members that are not settled.
--   ARGV[3] body, compressed · ARGV[4] idempotency key · ARGV[5] path · ARGV[6] members, JSON
--   ARGV[7] when it was saved first, ms · ARGV[8] time to live, ms
--   ARGV[9] how many requests contain each member, JSON
local function write_request(key, left)
  redis.call(
    "HSET", key,
    "body", ARGV[3],
    "key", ARGV[4],
    "path", ARGV[5],
    "members", ARGV[6],
    "numbers", ARGV[9],
    "saved_at", ARGV[7],
    "left", left
  )
  redis.call("PEXPIRE", key, ARGV[8])
end
