-- The epoch of this store: a random id in a key, which is lost with all other keys, and the server's run id. The same
-- epoch later means that the store has lost no data in between. A server that hides its run id is identified by the
-- key alone.
local function store_epoch(key, new_id)
  local found = redis.call("GET", key)
  if not found then
    redis.call("SET", key, new_id)
    found = new_id
  end
  local info = redis.pcall("INFO", "server")
  local run_id = type(info) == "string" and string.match(info, "run_id:(%x+)") or ""
  return found .. ":" .. run_id
end
