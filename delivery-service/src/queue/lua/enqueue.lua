-- Stores deliveries, lane by lane. ARGV[3…]: dedupe window ms, backlog count and bytes, kept failed,
-- ages of ended and failed (ms), what makes a head one of a full lane; then for each lane: id, license,
-- count, and for each delivery: id, head, body, how ("" plain; "n" or "f" (fails at once), and 16 bytes
-- for the event when it is deduplicated).
-- Answers for each lane an error's text, or { who ("fence", -1 due, 0 not now), 1 if it was given now, last place
-- before, and for each delivery its place, its place negated when it ended at once, or the id of the one there
-- was }.
local window, max_count, max_bytes = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local failed_kept, ended_age, failed_age, full = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), ARGV[9]
local new_heads, new_bodies, granted, due, events = {}, {}, {}, {}, {}

local function enqueue(lane, at, count)
  local key = base .. 'lane:' .. lane
  local r = redis.call('HMGET', key, 'last', 'fence', 'holder', 'hold', 'n', 'bytes', 'memo', 'age')
  local last, n, bytes = tonumber(r[1] or 0), tonumber(r[5] or 0), tonumber(r[6] or 0)
  local had, floor = n, now * 2048
  local answer, open, failed = { 0, 0, last }, {}, {}
  for i = at + 3, at + 2 + count * 4, 4 do
    local id, head, body, how = ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
    local known
    if #how > 1 then
      local event = base .. 'ev:' .. string.sub(how, 2)
      local value = id .. struct.pack('>I8', now + window)
      known = redis.call('SET', event, value, 'NX', 'GET', 'PX', window)
      if known and struct.unpack('>I8', known, 17) <= now then
        redis.call('SET', event, value, 'PX', window)
        known = nil
      end
      if not known then events[#events + 1] = event end
    end
    if known then
      answer[#answer + 1] = string.sub(known, 1, 16)
    else
      last = math.max(last + 1, floor)
      local size = #body
      new_heads[#new_heads + 1] = id
      if string.byte(how) == 102 then
        failed[#failed + 1], failed[#failed + 2] = last, id
        new_heads[#new_heads + 1] = struct.pack(MARK, last, size, FAILED, 0, 0) .. head
        new_bodies[#new_bodies + 1], new_bodies[#new_bodies + 2] = id, body
        answer[#answer + 1] = -last
      elseif n >= max_count or bytes + size > max_bytes then
        failed[#failed + 1], failed[#failed + 2] = last, id
        new_heads[#new_heads + 1] = struct.pack(MARK, last, 0, FAILED, 0, 0) .. head .. full
        answer[#answer + 1] = -last
      else
        n, bytes = n + 1, bytes + size
        open[#open + 1], open[#open + 2] = last, id
        new_heads[#new_heads + 1] = struct.pack(MARK, last, size, FRESH, 0, 0) .. head
        new_bodies[#new_bodies + 1], new_bodies[#new_bodies + 2] = id, body
        answer[#answer + 1] = last
      end
    end
  end
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

local answers, at, aged = {}, 10, {}
while at <= #ARGV do
  local lane, count = ARGV[at], tonumber(ARGV[at + 2])
  local h, b, e = #new_heads, #new_bodies, #events
  local done, answer, failed, age = pcall(enqueue, lane, at, count)
  if done then
    answers[#answers + 1] = answer
    if failed then aged[#aged + 1] = { lane, age } end
  else
    -- Nothing of this lane stays; above all no event id that would be taken for stored.
    answers[#answers + 1] = reason(answer)
    for i = #new_heads, h + 1, -1 do new_heads[i] = nil end
    for i = #new_bodies, b + 1, -1 do new_bodies[i] = nil end
    for i = #events, e + 1, -1 do
      redis.call('DEL', events[i])
      events[i] = nil
    end
  end
  at = at + 3 + count * 4
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
if not done then
  for _, event in ipairs(events) do redis.call('DEL', event) end
  return redis.error_reply(reason(failure))
end
for _, lane in ipairs(aged) do
  trim('failed:', lane[1], failed_kept, redis.call('ZCARD', base .. 'failed:' .. lane[1]))
  aging(lane[1], lane[2], ended_age, failed_age)
end
return answers
