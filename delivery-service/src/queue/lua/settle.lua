-- Stores what became of deliveries, and gives leases back. ARGV[3…]: kept ended and failed, their ages (ms);
-- then for each lane: id, HEADER (fence, done to, how it is given back: a letter, the last place known, hold ms, bytes
-- of the bodies that end, how many failed or are retried) and, when there is one, "m" and its memo; those that
-- ended as history has them (place and id), and for each: id, record; those that failed or are retried, for each:
-- id, ms until then or "" for failed, renewals, head; with "b": joins a batch, and what makes its head
-- say so. Answers for each lane 1, 0 when its lease is lost, or an error's text.
local HEADER, HEADER_SIZE = '>I8I8BI8I8I8I4', 45
-- How a lane is given back: not, when it has something to do, at once, after a hold, when it is woken.
local KEPT, FREE, UNREAD, HOLD, PARK = string.byte('kfuhp', 1, 5)
local ended_kept, failed_kept = tonumber(ARGV[3]), tonumber(ARGV[4])
local ended_age, failed_age = tonumber(ARGV[5]), tonumber(ARGV[6])
local freed, waiting, news, records, dropped = {}, {}, {}, {}, {}
local touched, history = {}, {}

-- Records and bodies of all lanes are written together.
local function flush()
  each('HSET', heads, records)
  each('HDEL', bodies, dropped)
  records, dropped = {}, {}
end

local function settle(lane, l, at, ended, header)
  local fence, done_to, release, known, hold, bytes, others = unpack(header)
  if type(l) == 'string' then l = lane_of(l) end
  if not is_mine(l, fence) then return 0 end
  local i, late, open, sched = at + 3, l.late == 1, base .. 'open:' .. lane, nil
  if late or others > 0 or release ~= KEPT then sched = base .. 'sched:' .. lane end

  if ended > 0 then
    local ids, entries = {}, ARGV[at + 2]
    for k = 1, ended do ids[k] = ARGV[i + k * 2 - 2] end
    local left = each('ZREM', open, ids)
    l.n, l.bytes = l.n - left, l.bytes - bytes * left / ended
    if left == ended then
      local r, d = #records, #dropped
      for k = 1, ended do
        records[r + 1], records[r + 2], r = ids[k], ARGV[i + k * 2 - 1], r + 2
        dropped[d + k] = ids[k]
      end
    else
      -- When some had ended before, a call is repeated: what stands of them stands.
      local new = {}
      for k, value in ipairs(values(heads, ids)) do
        local kind, flags
        if value then kind, flags = select(3, struct.unpack(MARK, value)) end
        if kind and (kind < ENDED or (kind == ENDED and flags >= WITHDRAWN)) then
          records[#records + 1], records[#records + 2] = ids[k], ARGV[i + k * 2 - 1]
          dropped[#dropped + 1] = ids[k]
          -- What was withdrawn while its attempt was under way has succeeded all the same.
          if kind < ENDED then new[#new + 1] = string.sub(entries, (k - 1) * ENTRY + 1, k * ENTRY) end
        end
      end
      entries = table.concat(new)
    end
    if late then each('ZREM', sched, ids) end
    if entries ~= '' then
      remember(lane, l, entries)
      history[lane] = history[lane] or 1
    end
    i = i + ended * 2
  end

  if others > 0 then
    local ids = {}
    for k = 0, others - 1 do ids[#ids + 1] = ARGV[i + k * 4] end
    local stored = values(heads, ids)
    local scheduled, gone, failed = {}, {}, {}
    for k = 1, others do
      local id, after, renewals, head = ids[k], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3]
      i = i + 4
      if stored[k] then
        local place, size, kind, flags, was = struct.unpack(MARK, stored[k])
        if after == 'b' then
          if kind < ENDED then
            records[#records + 1], records[#records + 2] = id, stored[k] .. head
          end
        elseif kind < ENDED then
          records[#records + 1] = id
          if tonumber(renewals) < was then
            -- A retry was asked for that this attempt did not know of. After failing it leaves its batch.
            if after == '' then head = failed_no_more(head) end
            scheduled[#scheduled + 1], scheduled[#scheduled + 2] = now / 1000000, id
            records[#records + 1] = struct.pack(MARK, place, size, SCHEDULED, RENEW, was) .. head
            news[#news + 1] = lane
          elseif after ~= '' then
            scheduled[#scheduled + 1], scheduled[#scheduled + 2] = now + after, id
            records[#records + 1] = struct.pack(MARK, place, size, SCHEDULED, 0, renewals) .. head
          else
            gone[#gone + 1] = id
            failed[#failed + 1], failed[#failed + 2] = place, id
            records[#records + 1] = struct.pack(MARK, place, size, FAILED, 0, renewals) .. head
            l.bytes = l.bytes - size
          end
        elseif kind == ENDED and flags >= WITHDRAWN then
          records[#records + 1] = id
          records[#records + 1] = struct.pack(MARK, place, 0, ENDED, WITHDRAWN, renewals) .. withdrawn(head)
        end
      end
    end
    l.n = l.n - each('ZREM', open, gone)
    if late then each('ZREM', sched, gone) end
    each('ZADD', sched, scheduled)
    late = late or #scheduled > 0
    each('ZADD', base .. 'failed:' .. lane, failed)
    if #failed > 0 then history[lane] = 2 end
  end

  l.done = math.max(l.done, done_to)
  if late then l.late = 1 end
  if #ARGV[at + 1] > HEADER_SIZE then put(l, string.sub(ARGV[at + 1], HEADER_SIZE + 2), recent_of(l)) end
  if release ~= KEPT then
    local held, next = 0, nil
    local first = redis.call('ZRANGE', sched, 0, 0, 'WITHSCORES')
    if redis.call('SREM', base .. 'news:' .. me, lane .. 'w') == 1 then
      -- It was woken, and its holder had not heard of that.
      next = now
    elseif release == PARK then
      held, next = PARKED, '+inf'
      redis.call('SADD', base .. 'parked', lane)
    elseif release == HOLD then
      held = now + hold
      -- What was asked for goes past a hold.
      next = first[2] and tonumber(first[2]) < 1e9 and now or held
    elseif release == UNREAD or (l.last > known
      and #redis.call('ZRANGE', open, string.format('(%.0f', known), '+inf', 'BYSCORE', 'LIMIT', 0, 1) > 0) then
      next = now
    elseif first[2] then
      next = first[2]
    elseif redis.call('EXISTS', open) == 1 then
      next = now
    else
      l.n, l.bytes, l.late = 0, 0, 0
    end
    l.holder, l.hold = '', held
    freed[#freed + 1] = lane
    if next then waiting[#waiting + 1], waiting[#waiting + 2] = next, lane end
  end
  touched[lane] = l
  return 1
end

local all, headers, starts, at = {}, {}, {}, 7
while at <= #ARGV do
  local k, header = #all + 1, { struct.unpack(HEADER, ARGV[at + 1]) }
  all[k], headers[k], starts[k] = ARGV[at], header, at
  at = at + 3 + #ARGV[at + 2] / ENTRY * 2 + header[7] * 4
end
local stored, answers, seen = values(states, all), {}, {}
for i, lane in ipairs(all) do
  at = starts[i]
  if seen[lane] then flush() end
  seen[lane] = true
  local r, d = #records, #dropped
  local done, answer = pcall(settle, lane, touched[lane] or stored[i], at, #ARGV[at + 2] / ENTRY, headers[i])
  if not done then
    for k = #records, r + 1, -1 do records[k] = nil end
    for k = #dropped, d + 1, -1 do dropped[k] = nil end
  end
  answers[i] = done and answer or reason(answer)
end
flush()
each('SREM', base .. 'held:' .. me, freed)
each('ZADD', lanes, waiting)
each('SADD', base .. 'news:' .. me, news)
local changed, gone = {}, {}
for lane, l in pairs(touched) do
  if history[lane] then
    trim_ended(lane, l, ended_kept)
    if history[lane] == 2 then trim_failed(lane, failed_kept) end
    aging(lane, l, ended_age, failed_age)
  end
  if l.gone then
    gone[#gone + 1] = lane
  else
    local c = #changed
    changed[c + 1], changed[c + 2] = lane, packed(l)
  end
end
each('HSET', states, changed)
each('HDEL', states, gone)
return answers
