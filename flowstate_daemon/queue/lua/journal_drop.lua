-- Removes entries from the head of the journal. Entries that another ledger writer has removed already are skipped;
-- entries that were not passed stay.
--
-- KEYS[1] flowstate:journal (list)
--
-- ARGV[1…] the entries, in the order in which they were read
--
-- Returns the number of removed entries
-- Publishes nothing
-- Agrees with no script of Bull 4: the key is ours

local head = redis.call("LRANGE", KEYS[1], 0, #ARGV - 1)
local dropped = 0

for _, entry in ipairs(ARGV) do
  if head[dropped + 1] == entry then
    dropped = dropped + 1
  end
end
if dropped > 0 then
  redis.call("LTRIM", KEYS[1], dropped, -1)
end
return dropped
