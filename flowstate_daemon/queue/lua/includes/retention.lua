-- Deletes finished jobs beyond the retention policy: entries of the zset, hashes and logs.
-- `count`, `age` (seconds): a number, or nil for no limit. `count` is never 0 here: such a job is deleted at once.
local function trim(set, base, now, count, age)
  local function drop(ids)
    for _, id in ipairs(ids) do
      redis.call("DEL", base .. id, base .. id .. ":logs")
    end
  end
  if age then
    local oldest = string.format("%.17g", now - age * 1000)
    drop(redis.call("ZRANGEBYSCORE", set, "-inf", oldest))
    redis.call("ZREMRANGEBYSCORE", set, "-inf", oldest)
  end
  if count and redis.call("ZCARD", set) > count then
    drop(redis.call("ZREVRANGE", set, count, -1))
    redis.call("ZREMRANGEBYRANK", set, 0, -(count + 1))
  end
end
