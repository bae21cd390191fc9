-- Reads jobs as a claim would, and leaves them where they are.
--
-- KEYS[1] the hash of the first job; those of the others follow
--
-- ARGV[1] longest data to return, bytes
-- then the id of each job
--
-- Returns for each id what `claim` returns of a job, or nothing when there is no such job
-- Publishes nothing
-- Agrees with nothing of Bull 4: it changes nothing

-- @include job_row

local longest = tonumber(ARGV[1])
local rows = {}

for i, hash in ipairs(KEYS) do
  rows[i] = row_of(hash, ARGV[i + 1], longest) or false
end
return rows
