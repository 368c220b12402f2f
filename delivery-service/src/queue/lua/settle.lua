-- Stores what became of deliveries, and gives leases back. ARGV[3…]: kept ended and failed, their ages (ms);
-- then for each lane: id, fence, done to, memo ("" none, else "m" and it), release ("", "free", "unread",
-- "hold", "park"), the last place known, hold ms, bytes of the bodies that end, how many ended (each: id,
-- place, record), how many failed or are retried (each: id, ms until then or "" for failed, renewed_at,
-- attempts, head; with "b": joins a batch, and what makes its head say so). Answers for each lane 1, 0 when its lease is lost, or an error's text.
local ended_kept, failed_kept = tonumber(ARGV[3]), tonumber(ARGV[4])
local ended_age, failed_age = tonumber(ARGV[5]), tonumber(ARGV[6])
local freed, waiting, news, records, dropped, history = {}, {}, {}, {}, {}, {}

-- Records and bodies of all lanes are written together.
local function flush()
  each('HSET', heads, records)
  each('HDEL', bodies, dropped)
  records, dropped = {}, {}
end

local function settle(lane, at, ended, others)
  local key, open, sched = base .. 'lane:' .. lane, base .. 'open:' .. lane, base .. 'sched:' .. lane
  local r = redis.call('HMGET', key, 'fence', 'holder', 'done', 'n', 'bytes', 'last', 'age', 'late', 'ended')
  if r[1] ~= ARGV[at + 1] or r[2] ~= me then return 0 end
  local n, bytes = tonumber(r[4] or 0), tonumber(r[5] or 0)
  local history_count, fails, late = nil, false, r[8] == '1'

  local i = at + 9
  if ended > 0 then
    local ids, places, stored, count = {}, {}, nil, 0
    for k = 1, ended do ids[k] = ARGV[i + k * 3 - 3] end
    local left = each('ZREM', open, ids)
    n, bytes = n - left, bytes - ARGV[at + 7] * left / ended
    -- When some had ended before, a call is repeated: what stands of them stands.
    if left < ended then stored = values(heads, ids) end
    for k = 1, ended do
      local id = ids[k]
      local kind, flags
      if stored and stored[k] then kind, flags = select(3, struct.unpack(MARK, stored[k])) end
      -- What was withdrawn while its attempt was under way has succeeded all the same.
      if not stored or (kind and (kind < ENDED or (kind == ENDED and flags >= WITHDRAWN))) then
        places[#places + 1], places[#places + 2] = ARGV[i + 1], id
        records[#records + 1], records[#records + 2] = id, ARGV[i + 2]
        dropped[#dropped + 1] = id
        count = count + 1
      end
      i = i + 3
    end
    if late then each('ZREM', sched, ids) end
    if count > 0 then
      local before = r[9] and tonumber(r[9]) or redis.call('ZCARD', base .. 'ok:' .. lane)
      history_count = before + each('ZADD', base .. 'ok:' .. lane, places)
    end
  end

  i = i + 1
  if others > 0 then
    local ids = {}
    for k = 0, others - 1 do ids[#ids + 1] = ARGV[i + k * 5] end
    local stored = values(heads, ids)
    local scheduled, gone, failed = {}, {}, {}
    for k = 1, others do
      local id, after, renewed, attempts, head = ids[k], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4]
      i = i + 5
      if stored[k] then
        local place, size, kind, flags, was = struct.unpack(MARK, stored[k])
        if after == 'b' then
          if kind < ENDED then
            records[#records + 1], records[#records + 2] = id, stored[k] .. head
          end
        elseif kind < ENDED then
          records[#records + 1] = id
          if flags >= UNSEEN or was ~= tonumber(renewed) then
            -- A retry was asked for that this attempt did not know of. After failing it leaves its batch.
            if after == '' then head = failed_no_more(head) end
            scheduled[#scheduled + 1], scheduled[#scheduled + 2] = now / 1000000, id
            records[#records + 1] = struct.pack(MARK, place, size, SCHEDULED, RENEW, attempts) .. head
            news[#news + 1] = lane
          elseif after ~= '' then
            scheduled[#scheduled + 1], scheduled[#scheduled + 2] = now + after, id
            records[#records + 1] = struct.pack(MARK, place, size, SCHEDULED, 0, renewed) .. head
          else
            gone[#gone + 1] = id
            failed[#failed + 1], failed[#failed + 2] = place, id
            records[#records + 1] = struct.pack(MARK, place, size, FAILED, 0, renewed) .. head
            bytes = bytes - size
          end
        elseif kind == ENDED and flags >= WITHDRAWN then
          records[#records + 1] = id
          records[#records + 1] = struct.pack(MARK, place, 0, ENDED, WITHDRAWN, renewed) .. withdrawn(head)
        end
      end
    end
    n = n - each('ZREM', open, gone)
    if late then each('ZREM', sched, gone) end
    each('ZADD', sched, scheduled)
    late = late or #scheduled > 0
    each('ZADD', base .. 'failed:' .. lane, failed)
    fails = #failed > 0
  end

  local fields = { 'n', math.max(0, n), 'bytes', math.max(0, bytes) }
  if tonumber(ARGV[at + 2]) > tonumber(r[3] or 0) then
    fields[5], fields[6] = 'done', ARGV[at + 2]
  end
  if late and r[8] ~= '1' then fields[#fields + 1], fields[#fields + 2] = 'late', 1 end
  if history_count then fields[#fields + 1], fields[#fields + 2] = 'ended', history_count end
  if ARGV[at + 3] ~= '' then
    fields[#fields + 1], fields[#fields + 2] = 'memo', string.sub(ARGV[at + 3], 2)
  end
  local release = ARGV[at + 4]
  if release ~= '' then
    local known, hold, next = ARGV[at + 5], 0, nil
    local first = redis.call('ZRANGE', sched, 0, 0, 'WITHSCORES')
    if (release == 'park' or release == 'hold') and redis.call('SREM', base .. 'news:' .. me, lane .. 'w') == 1 then
      -- It was woken, and its holder had not heard of that.
      next = now
    elseif release == 'park' then
      hold, next = 'inf', '+inf'
      redis.call('SADD', base .. 'parked', lane)
    elseif release == 'hold' then
      hold = now + ARGV[at + 6]
      -- What was asked for goes past a hold.
      next = first[2] and tonumber(first[2]) < 1e9 and now or hold
    elseif release == 'unread' or (tonumber(r[6] or 0) > tonumber(known)
      and #redis.call('ZRANGE', open, '(' .. known, '+inf', 'BYSCORE', 'LIMIT', 0, 1) > 0) then
      next = now
    elseif first[2] then
      next = first[2]
    elseif redis.call('EXISTS', open) == 1 then
      next = now
    else
      fields[2], fields[4] = 0, 0
      if late then fields[#fields + 1], fields[#fields + 2] = 'late', '' end
    end
    fields[#fields + 1], fields[#fields + 2] = 'holder', ''
    fields[#fields + 1], fields[#fields + 2] = 'hold', hold
    freed[#freed + 1] = lane
    if next then waiting[#waiting + 1], waiting[#waiting + 2] = next, lane end
  end
  redis.call('HSET', key, unpack(fields))

  if history_count or fails then
    local before = history[lane] or {}
    history[lane] = { history_count or before[1] or false, fails or before[2], r[7] }
  end
  return 1
end

local answers, at, seen = {}, 7, {}
while at <= #ARGV do
  local lane, ended = ARGV[at], tonumber(ARGV[at + 8])
  local others = tonumber(ARGV[at + 9 + ended * 3])
  if seen[lane] then flush() end
  seen[lane] = true
  local r, d = #records, #dropped
  local done, answer = pcall(settle, lane, at, ended, others)
  if not done then
    for i = #records, r + 1, -1 do records[i] = nil end
    for i = #dropped, d + 1, -1 do dropped[i] = nil end
  end
  answers[#answers + 1] = done and answer or reason(answer)
  at = at + 10 + ended * 3 + others * 5
end
flush()
each('SREM', base .. 'held:' .. me, freed)
each('ZADD', lanes, waiting)
each('SADD', base .. 'news:' .. me, news)
for lane, of in pairs(history) do
  local count, fails, age = of[1], of[2], of[3]
  if count then
    local left = trim('ok:', lane, ended_kept, count)
    if left < count then redis.call('HSET', base .. 'lane:' .. lane, 'ended', left) end
  end
  if fails then trim('failed:', lane, failed_kept, redis.call('ZCARD', base .. 'failed:' .. lane)) end
  aging(lane, age, ended_age, failed_age)
end
return answers
