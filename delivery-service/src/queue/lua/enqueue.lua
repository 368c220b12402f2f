-- Stores deliveries, lane by lane. ARGV[3…]: dedupe window ms, backlog count and bytes, kept failed, ages of
-- ended and failed (ms), what makes a head one of a full lane, "1" if bodies come with the heads; how many event
-- digests follow, and these, in the order of their deliveries; then for each lane: id, license, how its deliveries
-- are stored (a letter each: "n", or "f": fails at once; "N" and "F" have a digest; and 4 bytes: the size of its
-- body), and for each delivery: id, head, perhaps body. Else the bodies are there already, in the same transaction:
-- Lua hashes every byte of what it is given.
-- Answers for each lane an error's text, or { who ("fence", -1 due, 0 not now), 1 if it was given now, last place
-- before, and for each delivery its place, its place negated when it ended at once, or the id of the one there
-- was; when all were stored, several, their first place alone }.
local window, max_count, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local failed_kept, ended_age, failed_age, full = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
local new_heads, unwanted, granted, due = {}, {}, {}, {}

-- Events are noted when all else is done: what fails before leaves none that would be taken for stored.
local digests, noted, known, bucket, since = tonumber(ARGV[11]), {}, nil, nil, nil
if digests > 0 then known, bucket, since = events(window, 12, 11 + digests) end
local digest, each_takes, new_bodies = 11, ARGV[10] == '1' and 3 or 2, {}

local all = {}
do
  local at = 12 + digests
  while at <= #ARGV do
    all[#all + 1] = ARGV[at]
    at = at + 3 + #ARGV[at + 2] / 5 * each_takes
  end
end
local stored, touched, failing, changed = values(states, all), {}, {}, {}

local function enqueue(lane, value, at, hows)
  local l = value and lane_of(value) or new_lane(ARGV[at + 1])
  local count, last, n, bytes = #hows / 5, l.last, l.n, l.bytes
  local had, floor, plain = n, now * 2048, count > 1
  local answer, open, failed = { 0, 0, last }, {}, {}
  for k = 1, count do
    local i = at + 3 + (k - 1) * each_takes
    local how, size = struct.unpack('>BI4', hows, k * 5 - 4)
    local id, event = ARGV[i], nil
    if how < 97 then
      digest = digest + 1
      event, how = ARGV[digest], how + 32
    end
    if event and known[event] then
      answer[k + 3], plain = known[event], false
      if known[event] ~= id then unwanted[#unwanted + 1] = id end
    else
      local head, h = ARGV[i + 1], #new_heads
      if each_takes == 3 then new_bodies[#new_bodies + 1], new_bodies[#new_bodies + 2] = id, ARGV[i + 2] end
      last = math.max(last + 1, floor)
      if event then
        local e = #noted
        known[event], noted[e + 1], noted[e + 2] = id, event, id .. since
      end
      new_heads[h + 1] = id
      if how == 102 then
        failed[#failed + 1], failed[#failed + 2] = last, id
        new_heads[h + 2] = struct.pack(MARK, last, size, FAILED, 0, 0) .. head
        answer[k + 3], plain = -last, false
      elseif n >= max_count or bytes + size > max_bytes then
        failed[#failed + 1], failed[#failed + 2] = last, id
        new_heads[h + 2] = struct.pack(MARK, last, 0, FAILED, 0, 0) .. head .. full
        unwanted[#unwanted + 1] = id
        answer[k + 3], plain = -last, false
      else
        n, bytes = n + 1, bytes + size
        local o = #open
        open[o + 1], open[o + 2] = last, id
        new_heads[h + 2] = struct.pack(MARK, last, size, FRESH, 0, 0) .. head
        answer[k + 3] = last
      end
    end
  end
  if plain then answer = { 0, 0, answer[3], answer[4] } end
  if #open == 0 and #failed == 0 then return answer end

  if #open > 0 then each('ZADD', base .. 'open:' .. lane, open) end
  if #failed > 0 then each('ZADD', base .. 'failed:' .. lane, failed) end
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
    else
      -- On hold or parked, and perhaps found empty since: it is due when that is over.
      due[#due + 1], due[#due + 2] = l.hold == PARKED and '+inf' or l.hold, lane
    end
  end
  return answer, l, #failed > 0
end

local answers, at = {}, 12 + digests
for i, lane in ipairs(all) do
  local hows = ARGV[at + 2]
  local count, h, e, d = #hows / 5, #new_heads, #noted, digest
  local done, answer, l, fails = pcall(enqueue, lane, stored[i], at, hows)
  if done then
    answers[i] = answer
    if l then touched[lane], failing[lane] = l, fails end
  else
    -- Nothing of this lane stays.
    answers[i] = reason(answer)
    for i = #new_heads, h + 1, -1 do new_heads[i] = nil end
    for i = #noted, e + 1, -1 do noted[i] = nil end
    digest = d
    for k = 1, count do
      if string.byte(hows, k * 5 - 4) < 97 then digest = digest + 1 end
      unwanted[#unwanted + 1] = ARGV[at + 3 + (k - 1) * each_takes]
    end
  end
  at = at + 3 + count * each_takes
end

local done, failure = pcall(function()
  each('HSET', heads, new_heads)
  each('HSET', bodies, new_bodies)
  each('HDEL', bodies, unwanted)
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
