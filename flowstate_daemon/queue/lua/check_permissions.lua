-- Tries every command that the scripts of this folder use, on one key, to see which of them this user may run.
--
-- KEYS[1] a key that nothing else uses (string, made here and gone at the end, or by itself after ten seconds)
--
-- ARGV[1] a channel that nobody hears
-- ARGV[2…] commands, as words separated by spaces; $ stands for the key, @ for the channel
--
-- Returns {what Redis said to the first, …}: an empty text for what went well
-- Publishes one 0 on the channel
-- Agrees with nothing in Bull 4

-- A string with a life of its own comes first: on it the commands of other types fail, but not before the user's
-- right to them was looked at.
redis.pcall("SET", KEYS[1], "1", "PX", 10000)
local said = {}
for i = 2, #ARGV do
  local words = {}
  for word in string.gmatch(ARGV[i], "%S+") do
    words[#words + 1] = word == "$" and KEYS[1] or word == "@" and ARGV[1] or word
  end
  local answer = redis.pcall(unpack(words))
  said[#said + 1] = type(answer) == "table" and answer.err or ""
end
redis.pcall("DEL", KEYS[1])
return said
