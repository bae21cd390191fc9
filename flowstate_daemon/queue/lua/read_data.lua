-- Reads the data of jobs.
--
-- KEYS[1…] <id> (hash) of each job
--
-- Returns the data of each job; "" for one that has none
-- Publishes nothing
-- Agrees with no script of Bull 4: it only reads

local found = {}
for i = 1, #KEYS do
  local data = redis.pcall("HGET", KEYS[i], "data")
  found[i] = type(data) == "string" and data or ""
end
return found
