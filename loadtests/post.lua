-- wrk -t1 -c16 -d10s -s loadtests/post.lua http://127.0.0.1:8000/v1/predict
-- Sends the texts beside this file in turn; the last line says how many answers were not 2xx.

local folder = debug.getinfo(1, "S").source:match("^@(.*/)") or "./"

local function quoted(text)
  return '"' .. text:gsub('[%c"\\]', function(c) return string.format("\\u%04x", c:byte()) end) .. '"'
end

local bodies = {}
for line in io.lines(folder .. "texts.txt") do
  bodies[#bodies + 1] = '{"inputs": ' .. quoted(line) .. "}"
end

function setup(thread)
  assert(wrk.host == "127.0.0.1", "load is sent to 127.0.0.1 and nowhere else, not to " .. tostring(wrk.host))
end

local sent = 0

function request()
  sent = sent + 1
  return wrk.format("POST", nil, { ["Content-Type"] = "application/json" }, bodies[(sent - 1) % #bodies + 1])
end

function done(summary)
  local errors = summary.errors
  print(string.format(
    "requests=%d not_2xx=%d socket_errors=%d",
    summary.requests, errors.status, errors.connect + errors.read + errors.write + errors.timeout
  ))
end
