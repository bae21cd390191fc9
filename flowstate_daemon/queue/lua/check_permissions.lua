-- Runs every command that the scripts use, on one key, to find those that this user may not run.
--
-- KEYS[1] a key of its own (string, created here, deleted at the end; expires after ten seconds)
--
-- ARGV[1] a channel without subscribers
-- ARGV[2…] commands, separated by spaces; $ is replaced by the key, @ by the channel
--
-- Returns the error of each command; an empty string when it succeeded
-- Publishes a 0 on the channel
-- Agrees with no script of Bull 4

-- The key is a string: commands for other types fail on it, but Redis checks the permission first.
redis.pcall("SET", KEYS[1], "1", "PX", 10000)
local errors = {}
for i = 2, #ARGV do
  local words = {}
  for word in string.gmatch(ARGV[i], "%S+") do
    words[#words + 1] = word == "$" and KEYS[1] or word == "@" and ARGV[1] or word
  end
  local answer = redis.pcall(unpack(words))
  errors[#errors + 1] = type(answer) == "table" and answer.err or ""
end
redis.pcall("DEL", KEYS[1])
return errors
