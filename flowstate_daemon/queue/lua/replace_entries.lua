-- Replaces entries of a list, wherever they are by now.
--
-- KEYS[1] flowstate:audit (list)
--
-- ARGV 2 for each entry: the entry · what replaces it, which differs
--
-- Returns how many entries were replaced
-- Publishes nothing
-- Agrees with no script of Bull 4: the key is ours

local replaced = 0
for at = 1, #ARGV, 2 do
  local index = redis.call("LPOS", KEYS[1], ARGV[at])
  while index do
    redis.call("LSET", KEYS[1], index, ARGV[at + 1])
    replaced = replaced + 1
    index = redis.call("LPOS", KEYS[1], ARGV[at])
  end
end
return replaced
