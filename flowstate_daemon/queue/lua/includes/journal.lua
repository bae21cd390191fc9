-- Outcomes on their way to the ledger. First `add_entry` for each job, then `write_journal` once. The outcome of a job that
-- somebody has removed meanwhile is written down, too: the mail went out. Whoever lost a job leaves it to the other.
local entries = {}

local function add_entry(code, entry)
  if entry ~= "" and (code == 0 or code == -1) then
    entries[#entries + 1] = entry
  end
end

-- Keeps the newest `limit` entries; 0 = all. A stranger's key in the journal's place must not stop an ending.
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
