-- The state of a job, looked up in Bull's order, and its score when the state is a zset; nothing when it is in none.
local function state_of(completed, failed, delayed, active, wait, paused, id)
  local zsets = {{"completed", completed}, {"failed", failed}, {"delayed", delayed}}
  for _, zset in ipairs(zsets) do
    local score = redis.call("ZSCORE", zset[2], id)
    if score then
      return zset[1], score
    end
  end
  local lists = {{"active", active}, {"wait", wait}, {"paused", paused}}
  for _, list in ipairs(lists) do
    if redis.call("LPOS", list[2], id) then
      return list[1]
    end
  end
end
