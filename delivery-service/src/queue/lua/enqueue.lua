-- Stores deliveries, lane by lane. ARGV[3…]: dedupe window ms, backlog count and bytes, kept failed,
-- ages of ended and failed (ms), what makes a head one of a full lane; how many event digests follow, and
-- these, in the order of their deliveries; then for each lane: id, license, count, how its deliveries are stored
-- (a letter each: "n", or "f": fails at once; "N" and "F" have a digest), and for each delivery: id, head, body.
-- Answers for each lane an error's text, or { who ("fence", -1 due, 0 not now), 1 if it was given now, last place
-- before, and for each delivery its place, its place negated when it ended at once, or the id of the one there
-- was; when all were stored, several, their first place alone }.
local window, max_count, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local failed_kept, ended_age, failed_age, full = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
local new_heads, new_bodies, granted, due = {}, {}, {}, {}

-- Events are noted when all else is done: what fails before leaves none that would be taken for stored.
local digests, noted, known, bucket, since = tonumber(ARGV[10]), {}, nil, nil, nil
if digests > 0 then known, bucket, since = events(window, 11, 10 + digests) end
local digest = 10

local all = {}
do
  local at = 11 + digests
  while at <= #ARGV do
    all[#all + 1] = ARGV[at]
    at = at + 4 + ARGV[at + 2] * 3
  end
end
local stored, touched, failing, changed = values(states, all), {}, {}, {}

local function enqueue(lane, value, at, count)
  local l = value and lane_of(value) or new_lane(ARGV[at + 1])
  local hows, last, n, bytes = ARGV[at + 3], l.last, l.n, l.bytes
  local had, floor, plain = n, now * 2048, count > 1
  local answer, open, failed = { 0, 0, last }, {}, {}
  for k = 1, count do
    local i = at + 1 + k * 3
    local id, how, event = ARGV[i], string.byte(hows, k), nil
    if how < 97 then
      digest = digest + 1
      event, how = ARGV[digest], how + 32
    end
    if event and known[event] then
      answer[k + 3], plain = known[event], false
    else
      local head, body = ARGV[i + 1], ARGV[i + 2]
      local size, h, b = #body, #new_heads, #new_bodies
      last = math.max(last + 1, floor)
      if event then
        local e = #noted
        known[event], noted[e + 1], noted[e + 2] = id, event, id .. since
      end
      new_heads[h + 1] = id
      if how == 102 then
        failed[#failed + 1], failed[#failed + 2] = last, id
        new_heads[h + 2] = struct.pack(MARK, last, size, FAILED, 0, 0) .. head
        new_bodies[b + 1], new_bodies[b + 2] = id, body
        answer[k + 3], plain = -last, false
      elseif n >= max_count or bytes + size > max_bytes then
        failed[#failed + 1], failed[#failed + 2] = last, id
        new_heads[h + 2] = struct.pack(MARK, last, 0, FAILED, 0, 0) .. head .. full
        answer[k + 3], plain = -last, false
      else
        n, bytes = n + 1, bytes + size
        local o = #open
        open[o + 1], open[o + 2] = last, id
        new_heads[h + 2] = struct.pack(MARK, last, size, FRESH, 0, 0) .. head
        new_bodies[b + 1], new_bodies[b + 2] = id, body
        answer[k + 3] = last
      end
    end
  end
  if plain then answer = { 0, 0, answer[3], answer[4] } end
  if #open == 0 and #failed == 0 then return answer end

  each('ZADD', base .. 'open:' .. lane, open)
  each('ZADD', base .. 'failed:' .. lane, failed)
  l.last, l.n, l.bytes = last, n, bytes
  if #open > 0 then
    if l.holder == me then
      answer[1] = l.fence
    elseif l.holder ~= '' then
      if redis.call('SADD', base .. 'news:' .. l.holder, lane) == 1 then hint(l.holder, lane) end
    elseif l.hold <= now then
      if had == 0 and l.memo_size == 0 then
        l.fence, l.holder = l.fence + 1, me
        answer[1], answer[2] = l.fence, 1
        granted[#granted + 1] = lane
      else
        answer[1] = -1
        due[#due + 1], due[#due + 2] = now, lane
      end
    end
  end
  return answer, l, #failed > 0
end

local answers, at = {}, 11 + digests
for i, lane in ipairs(all) do
  local count = tonumber(ARGV[at + 2])
  local h, b, e, d = #new_heads, #new_bodies, #noted, digest
  local done, answer, l, fails = pcall(enqueue, lane, stored[i], at, count)
  if done then
    answers[i] = answer
    if l then touched[lane], failing[lane] = l, fails end
  else
    -- Nothing of this lane stays.
    answers[i] = reason(answer)
    for i = #new_heads, h + 1, -1 do new_heads[i] = nil end
    for i = #new_bodies, b + 1, -1 do new_bodies[i] = nil end
    for i = #noted, e + 1, -1 do noted[i] = nil end
    digest = d
    for _ in string.gmatch(ARGV[at + 3], '%u') do digest = digest + 1 end
  end
  at = at + 4 + count * 3
end

local done, failure = pcall(function()
  each('HSET', heads, new_heads)
  each('HSET', bodies, new_bodies)
  for lane, l in pairs(touched) do
    if failing[lane] then
      trim_failed(lane, failed_kept)
      aging(lane, l, ended_age, failed_age)
    end
    local c = #changed
    changed[c + 1], changed[c + 2] = lane, packed(l)
  end
  each('HSET', states, changed)
  if #granted > 0 then
    each('ZREM', lanes, granted)
    each('SADD', base .. 'held:' .. me, granted)
    redis.call('ZADD', base .. 'holders', now, me)
  end
  if #due > 0 then redis.call('ZADD', lanes, 'LT', unpack(due)) end
end)
if not done then return redis.error_reply(reason(failure)) end
if #noted > 0 then each('HSET', bucket, noted) end
return answers
