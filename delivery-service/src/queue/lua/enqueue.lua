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

local function enqueue(lane, at, count)
  local key, hows = base .. 'lane:' .. lane, ARGV[at + 3]
  local r = redis.call('HMGET', key, 'last', 'fence', 'holder', 'hold', 'n', 'bytes', 'memo', 'age')
  local last, n, bytes = tonumber(r[1] or 0), tonumber(r[5] or 0), tonumber(r[6] or 0)
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
  local set = { 'last', last, 'n', n, 'bytes', bytes }
  if not r[1] then set[7], set[8] = 'license', ARGV[at + 1] end
  if #open > 0 then
    local holder, hold = r[3] or '', tonumber(r[4] or 0)
    if holder == me then
      answer[1] = r[2]
    elseif holder ~= '' then
      if redis.call('SADD', base .. 'news:' .. holder, lane) == 1 then hint(holder, lane) end
    elseif hold <= now then
      if had == 0 and (r[7] or '') == '' then
        local fence = (r[2] or 0) + 1
        answer[1], answer[2] = string.format('%.0f', fence), 1
        set[#set + 1], set[#set + 2], set[#set + 3], set[#set + 4] = 'fence', fence, 'holder', me
        granted[#granted + 1] = lane
      else
        answer[1] = -1
        due[#due + 1], due[#due + 2] = now, lane
      end
    end
  end
  redis.call('HSET', key, unpack(set))
  return answer, #failed > 0, r[8]
end

local answers, at, aged = {}, 11 + digests, {}
while at <= #ARGV do
  local lane, count = ARGV[at], tonumber(ARGV[at + 2])
  local h, b, e, d = #new_heads, #new_bodies, #noted, digest
  local done, answer, failed, age = pcall(enqueue, lane, at, count)
  if done then
    answers[#answers + 1] = answer
    if failed then aged[#aged + 1] = { lane, age } end
  else
    -- Nothing of this lane stays.
    answers[#answers + 1] = reason(answer)
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
  if #granted > 0 then
    each('ZREM', lanes, granted)
    each('SADD', base .. 'held:' .. me, granted)
    redis.call('ZADD', base .. 'holders', now, me)
  end
  if #due > 0 then redis.call('ZADD', lanes, 'LT', unpack(due)) end
end)
if not done then return redis.error_reply(reason(failure)) end
if #noted > 0 then each('HSET', bucket, noted) end
for _, lane in ipairs(aged) do
  trim('failed:', lane[1], failed_kept, redis.call('ZCARD', base .. 'failed:' .. lane[1]))
  aging(lane[1], lane[2], ended_age, failed_age)
end
return answers
