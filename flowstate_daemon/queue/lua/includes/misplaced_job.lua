-- A job whose id is the name of one of the queue's keys is stored in that key: Bull adds it while the key does not exist.
-- Returns the error to return before anything is written, or nil. `relocate` then gives the job another id.
local function misplaced_job(first, last)
  for i = first, last do
    if redis.call("TYPE", KEYS[i]).ok == "hash" then
      return redis.error_reply("WRONGTYPE the id of a job is the name of a key of the queue: " .. KEYS[i])
    end
  end
end
