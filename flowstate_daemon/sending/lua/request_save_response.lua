-- Writes down what the provider has answered to a sealed request, for members that are settled later or elsewhere.
--
-- KEYS[1] flowstate:request:<envelope id> (hash)
--
-- ARGV[1] answer
--
-- Returns 1 done; 0 no such envelope (any more)
-- Publishes nothing
-- Agrees with no script of Bull 4: the key is ours

if redis.call("EXISTS", KEYS[1]) == 0 then
  return 0
end
redis.call("HSET", KEYS[1], "response", ARGV[1])
return 1
