-- Outcomes for the ledger. First `add_entry` for each job, then `write_journal` once. The outcome of a job that was
-- removed (-1) is recorded too, because the email was sent. A worker that lost the lock records nothing: the new
-- holder of the lock does.
local entries = {}

local function add_entry(code, entry)
  if entry ~= "" and (code == 0 or code == -1) then
    entries[#entries + 1] = entry
  end
end

-- Keeps the newest `limit` entries; 0 = all. Uses pcall: a foreign key of another type under the journal's name must
-- not stop the transition.
local function write_journal(journal, limit)
  if #entries > 0 then
    for first = 1, #entries, 1000 do
      redis.pcall("RPUSH", journal, unpack(entries, first, math.min(first + 999, #entries)))
    end
    if limit > 0 then
      redis.pcall("LTRIM", journal, -limit, -1)
    end
  end
end
