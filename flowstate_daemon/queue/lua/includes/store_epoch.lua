-- Names what this server remembers: a mark that goes with all other keys, and the run of the server's process. The same
-- name later means that nothing was forgotten meanwhile, as far as the server knows. A server that does not tell its
-- run is known by the mark alone.
local function memory_of(mark, fresh)
  local found = redis.call("GET", mark)
  if not found then
    redis.call("SET", mark, fresh)
    found = fresh
  end
  local told = redis.pcall("INFO", "server")
  local run = type(told) == "string" and string.match(told, "run_id:(%x+)") or ""
  return found .. ":" .. run
end
