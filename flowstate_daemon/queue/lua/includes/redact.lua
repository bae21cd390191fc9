-- Redacts one-time codes in JSON text and changes nothing else: decoding and encoding it would change numbers and empty
-- lists. The rules come from base/redaction.py as JSON: {"endings": names, "placeholder": text}, the names in lower case
-- and without separators.

local function is_code_name(name, rules)
  local bare = string.gsub(string.lower(name), "[_ -]", "")
  for _, ending in ipairs(rules.endings) do
    if string.sub(bare, -#ending) == ending then
      return true
    end
  end
  return false
end

-- The position of the quote that ends the string that starts at `quote`; the end of the text if there is none.
local function string_end(text, quote)
  local at = string.find(text, '["\\]', quote + 1)
  while at and string.sub(text, at, at) ~= '"' do
    at = string.find(text, '["\\]', at + 2)
  end
  return at or #text
end

-- The position of the last character of the value that starts at `first`.
local function value_end(text, first)
  local depth, at = 0, first
  repeat
    local char = string.sub(text, at, at)
    if char == '"' then
      at = string_end(text, at)
    elseif char == "{" or char == "[" then
      depth = depth + 1
    elseif char == "}" or char == "]" then
      depth = depth - 1
    elseif depth == 0 then
      return (select(2, string.find(text, "^[^%s,%]}]*", at)))
    end
    if depth == 0 then
      return at
    end
    at = string.find(text, '["%[%]{}]', at + 1)
  until not at
  return #text
end

local function redact_json(text, rules)
  local parts, copied = {}, 0
  local quote = string.find(text, '"', 1, true)
  while quote do
    local close = string_end(text, quote)
    local value = string.match(text, "^%s*:%s*()", close + 1)
    if value and is_code_name(string.sub(text, quote + 1, close - 1), rules) then
      parts[#parts + 1] = string.sub(text, copied + 1, value - 1) .. '"' .. rules.placeholder .. '"'
      copied = value_end(text, value)
      close = copied
    end
    quote = string.find(text, '"', close + 1, true)
  end
  return table.concat(parts) .. string.sub(text, copied + 1)
end
