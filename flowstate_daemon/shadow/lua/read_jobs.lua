-- Reads jobs as `claim` returns them, without moving them.
--
-- KEYS[1] <id> (hash) of the first job; those of the others follow
--
-- ARGV[1] maximum length of data to return, bytes
-- then the id of each job
--
-- Returns for each id the job as `claim` returns it, or nil when there is no such job
-- Publishes nothing
-- Agrees with no script of Bull 4

-- @include job_row

local max_data_bytes = tonumber(ARGV[1])
local rows = {}

for i, hash in ipairs(KEYS) do
  rows[i] = job_row(hash, ARGV[i + 1], max_data_bytes) or false
end
return rows
