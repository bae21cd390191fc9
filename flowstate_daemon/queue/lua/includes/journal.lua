-- Outcomes for the ledger. First `add_entry` for each job, then `write_journal` once. The outcome of a job that was
-- removed (-1) is recorded too. A worker that lost the lock records nothing, because the new holder of the lock does;
-- but that an email was sent is recorded whatever became of the job: there may be no new holder, and the ledger stores
-- the same entry once. Inside a JSON string the quotes of `SENT` would be escaped.
local entries = {}
local SENT = '"outcome":"sent"'

local function add_entry(code, entry)
  if entry ~= "" and (code == 0 or code == -1 or string.find(entry, SENT, 1, true)) then
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
