-- Whether a job matches the filter of an operator. A filter is JSON; every member is optional:
--   kinds     names of jobs, one of which it must have
--   recipient text that the address must contain; lower case
--   reason    text that the reason of its failure must contain; lower case; * is any text
--   after, before  Unix ms between which it finished, else was last started, else was added
-- "" matches every job, also ids without a hash.
local function read_filter(text)
  if text == "" then
    return nil
  end
  local filter = cjson.decode(text)
  filter.is_kind = filter.kinds and {}
  for _, name in ipairs(filter.kinds or {}) do
    filter.is_kind[name] = true
  end
  return filter
end

local function contains(text, part)
  return string.find(string.lower(text), part, 1, true) ~= nil
end

-- Whether the text contains the parts of a pattern, which * separates, in their order.
local function is_like(text, pattern)
  local from = 1
  text = string.lower(text)
  for part in string.gmatch(pattern, "[^*]+") do
    local _, last = string.find(text, part, from, true)
    if not last then
      return false
    end
    from = last + 1
  end
  return true
end

-- Parsing the data costs more than all else, so it is searched as text first. Escaped characters need parsing.
local function has_recipient(data, part)
  if not contains(data, part) and not string.find(data, "\\u", 1, true) then
    return false
  end
  local known, parsed = pcall(cjson.decode, data)
  local to = known and type(parsed) == "table" and parsed.to
  return type(to) == "string" and contains(to, part)
end

local function job_matches(filter, hash)
  if not filter then
    return true
  end
  local found = redis.pcall("HMGET", hash, "name", "failedReason", "finishedOn", "processedOn", "timestamp")
  if found.err then
    return false
  end
  if filter.is_kind and not filter.is_kind[found[1] or ""] then
    return false
  end
  if filter.reason and not (found[2] and is_like(found[2], filter.reason)) then
    return false
  end
  if filter.after or filter.before then
    local at = tonumber(found[3] or found[4] or found[5] or "")
    if not at or at ~= at or at < (filter.after or at) or at > (filter.before or at) then -- NaN equals nothing
      return false
    end
  end
  return not filter.recipient or has_recipient(redis.call("HGET", hash, "data") or "", filter.recipient)
end
