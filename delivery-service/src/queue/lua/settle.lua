-- Stores what became of deliveries, and gives leases back. ARGV[3…]: kept ended and failed, their ages (ms);
-- then for each lane, each once: id; HEADER (how it is given back: a letter, a capital one when some failed or are
-- retried, fence, done to, bytes of the bodies that end) and what few lanes need (the last place known, hold ms, how
-- many failed or are retried), and, when there is one, "m" and its memo; those that ended as history has them (place
-- and id); the record of each; those that failed or are retried, for each: id, ms until then or "" for failed,
-- renewals, head; with "b": joins a batch, and what makes its head say so. Answers for each lane 1, 0 when its lease
-- is lost, or an error's text.
local HEADER, MORE, MORE_AT, HEADER_SIZE = '>BI8I8I8', '>I8I8I4', 26, 45
-- How a lane is given back: not, when it has something to do, at once, after a hold, when it is woken.
local KEPT, FREE, UNREAD, HOLD, PARK = string.byte('kfuhp', 1, 5)
local ended_kept, failed_kept = tonumber(ARGV[3]), tonumber(ARGV[4])
local ended_age, failed_age = tonumber(ARGV[5]), tonumber(ARGV[6])
local most_ended = most_of(ended_kept)
local freed, waiting, news, woken, soon = {}, {}, {}, {}, now + math.min(ended_age, failed_age)
-- What of a lane's fields says how one that ended changes it.
local SETTLING = MIDDLE .. 'BI4I2'
-- What is written for all lanes together.
local records, dropped, changed, history = {}, {}, {}, {}

local sub = string.sub

-- The ids and members of a lane's ended ones behind those in the lists, and their records.
local function gather(lane, at, ended, ids, members, its_records)
  local entries, d, m, r, from = ARGV[at + 2], #ids, #members, #its_records, 1
  for k = 1, ended do
    local id = sub(entries, from + 8, from + 23)
    ids[d + k], members[m + k] = id, lane .. sub(entries, from, from + 23)
    its_records[r + 1], its_records[r + 2], r, from = id, ARGV[at + 2 + k], r + 2, from + ENTRY
  end
end

local all, starts, counts, marks, at, k, size = {}, {}, {}, {}, 7, 0, #ARGV
-- Nobody has woken most lanes: without any news at all no marks are made to be looked for.
local has_news = redis.call('EXISTS', base .. 'news:' .. me) == 1
while at <= size do
  local ended, header = #ARGV[at + 2] / ENTRY, ARGV[at + 1]
  local letter = string.byte(header)
  k = k + 1
  all[k], starts[k], counts[k] = ARGV[at], at, ended
  if has_news and letter ~= KEPT then marks[#marks + 1] = ARGV[at] .. 'w' end
  at = at + 3 + ended
  if letter < 97 then at = at + 4 * select(3, struct.unpack(MORE, header, MORE_AT)) end
end
for i = 1, #marks, 4000 do
  local last = math.min(i + 3999, #marks)
  for k, is in ipairs(redis.call('SMISMEMBER', base .. 'news:' .. me, unpack(marks, i, last))) do
    if is == 1 then woken[sub(marks[i + k - 1], 1, 16)] = true end
  end
end

-- Where enough history is kept, what is beyond that goes in whole blobs, once one holds no more than that.
local by_blobs, popped, forgotten = most_ended >= ended_kept + BLOB, {}, {}

-- Puts blobs back that were taken after the first n.
local function put_back(n)
  for i = #popped - 1, n + 1, -2 do
    redis.call('LPUSH', base .. 'ok:' .. popped[i], popped[i + 1])
    popped[i], popped[i + 1] = nil, nil
  end
end

-- What becomes of a lane of which some have ended as they were expected to, and which goes on or is given back
-- with nothing open, what of its history goes into its list, and the one that ended if it was alone; nil of others.
local function settled(lane, value, at, ended)
  local header = ARGV[at + 1]
  local release, fence, done_to, ended_bytes = struct.unpack(HEADER, header)
  if not value or #value < LANE_SIZE or #header > HEADER_SIZE or release < 97 then return nil end
  local held, holder, last, n, bytes, hold, lone, done, age, kept, late, memo_size, license_size =
    struct.unpack(SETTLING, value)
  if held ~= fence or holder ~= me or late == 1 then return nil end
  local alone
  if lone ~= NONE and ended > 0 then
    if ended > 1 or sub(ARGV[at + 2], 9) ~= lone then return nil end
    alone, lone = lone, NONE
  end
  if release ~= KEPT then
    if release ~= FREE or woken[lane] or n ~= ended then return nil end
    holder, hold, bytes = NOBODY, 0, ended_bytes
  end
  local rest, recent, blob = sub(value, REST), ARGV[at + 2], nil
  if ended > 0 then
    local before = LANE_SIZE + license_size + memo_size
    local size = #value - before + #recent
    if size > BLOB * ENTRY or (age > 0 and age <= now) then return nil end
    kept = kept + ended
    local taken = #popped
    while by_blobs and kept >= ended_kept + BLOB do
      local oldest = redis.pcall('LPOP', base .. 'ok:' .. lane)
      if type(oldest) ~= 'string' then
        put_back(taken)
        return nil
      end
      popped[#popped + 1], popped[#popped + 2] = lane, oldest
      kept = kept - #oldest / ENTRY
    end
    if kept > most_ended then return nil end
    if size >= RECENT * ENTRY then
      blob = sub(value, before + 1) .. recent
      rest, recent = sub(value, REST, before), ''
    end
    if age == 0 then age = soon end
  end
  if release ~= KEPT then freed[#freed + 1] = lane end
  n, bytes = n - ended, bytes - ended_bytes
  return struct.pack(SETTLED, fence, holder, last, n > 0 and n or 0, bytes > 0 and bytes or 0, hold,
    lone, done > done_to and done or done_to, age, kept, rest, recent), blob, alone
end

-- Most lanes take a command for all of them: they go on, or nothing is left in them, and what ended was open.
local stored, answers, others, members, full, loners, c = values(states, all), {}, {}, {}, {}, {}, 0
for i, lane in ipairs(all) do
  local value, blob, alone = settled(lane, stored[i], starts[i], counts[i])
  if value then
    full[i] = blob
    if alone then
      -- It is in no index.
      loners[i], dropped[#dropped + 1] = true, alone
      records[#records + 1], records[#records + 2] = alone, ARGV[starts[i] + 3]
    else
      gather(lane, starts[i], counts[i], dropped, members, records)
    end
    changed[c + 1], changed[c + 2], c, answers[i] = lane, value, c + 2, 1
  else
    others[#others + 1] = i
  end
end
-- Where some were not, a call is repeated, or they were withdrawn: each is looked at.
local looks = {}
if each('ZREM', open, members) < #members then
  for i in pairs(answers) do
    others[#others + 1], looks[i] = i, not loners[i]
  end
  records, dropped, changed, freed, full = {}, {}, {}, {}, {}
  put_back(0)
end
for i = 2, #popped, 2 do ids_of(popped[i], #popped[i] / ENTRY, forgotten) end
-- A list that is damaged is its lane's harm alone, and what ended there has ended all the same.
for i, blob in pairs(full) do
  local pushed = redis.pcall('RPUSH', base .. 'ok:' .. all[i], blob)
  if type(pushed) == 'table' then answers[i] = pushed.err end
end

local trim
if #others > 0 then
  --@here
  local touched = {}
  -- The same of any lane; with `looks` what ended is no longer among the open ones.
  local function settle(lane, value, at, ended, looks)
    local release, fence, done_to, bytes = struct.unpack(HEADER, ARGV[at + 1])
    local known, hold, others = struct.unpack(MORE, ARGV[at + 1], MORE_AT)
    if release < 97 then release = release + 32 end
    local l = value and lane_of(value)
    if not is_mine(l, fence) then return 0 end
    index_lone(lane, l)
    local i, late, sched = at + 3, l.late == 1, nil
    if late or others > 0 or release ~= KEPT then sched = base .. 'sched:' .. lane end

    if ended > 0 then
      local ids, members, entries, new_records = {}, {}, ARGV[at + 2], {}
      gather(lane, at, ended, ids, members, new_records)
      if not looks and each('ZREM', open, members) == ended then
        l.n, l.bytes = l.n - ended, l.bytes - bytes
        local r, d = #records, #dropped
        for k = 1, ended do dropped[d + k] = ids[k] end
        for k = 1, ended * 2 do records[r + k] = new_records[k] end
      else
        -- When some had ended before, a call is repeated: what stands of them stands.
        local new, seen = {}, {}
        for k, value in ipairs(values(heads, ids)) do
          local _, size, kind, flags
          if value and not seen[ids[k]] then _, size, kind, flags = struct.unpack(MARK, value) end
          seen[ids[k]] = true
          if kind and (kind < ENDED or (kind == ENDED and flags >= WITHDRAWN)) then
            records[#records + 1], records[#records + 2] = ids[k], new_records[k * 2]
            -- What was withdrawn while its attempt was under way has succeeded all the same.
            if kind < ENDED then
              dropped[#dropped + 1] = ids[k]
              new[#new + 1] = sub(entries, (k - 1) * ENTRY + 1, k * ENTRY)
              l.n, l.bytes = l.n - 1, l.bytes - size
            end
          end
        end
        entries = table.concat(new)
      end
      if late then each('ZREM', sched, ids) end
      if entries ~= '' then
        remember(lane, l, entries)
        history[lane] = history[lane] or 1
      end
      i = i + ended
    end

    if others > 0 then
      local ids = {}
      for k = 0, others - 1 do ids[#ids + 1] = ARGV[i + k * 4] end
      local stored = values(heads, ids)
      local scheduled, gone, left, failed = {}, {}, {}, {}
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
              gone[#gone + 1], left[#left + 1] = id, member(lane, place, id)
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
      l.n = l.n - each('ZREM', open, left)
      if late then each('ZREM', sched, gone) end
      each('ZADD', sched, scheduled)
      late = late or #scheduled > 0
      each('ZADD', base .. 'failed:' .. lane, failed)
      if #failed > 0 then history[lane] = 2 end
    end

    l.done = math.max(l.done, done_to)
    if late then l.late = 1 end
    if #ARGV[at + 1] > HEADER_SIZE then put(l, sub(ARGV[at + 1], HEADER_SIZE + 2), recent_of(l)) end
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
      elseif release == UNREAD or (l.last > known and #open_from(lane, known + 1, 1) > 0) then
        next = now
      elseif first[2] then
        next = first[2]
      elseif has_open(lane) then
        next = now
      else
        l.n, l.bytes, l.late = 0, 0, 0
      end
      l.holder, l.hold = NOBODY, held
      freed[#freed + 1] = lane
      if next then waiting[#waiting + 1], waiting[#waiting + 2] = next, lane end
    end
    return 1, l
  end

  for _, i in ipairs(others) do
    local r, d = #records, #dropped
    local done, answer, l = pcall(settle, all[i], stored[i], starts[i], counts[i], looks[i])
    if done then
      touched[all[i]] = l
    else
      for k = #records, r + 1, -1 do records[k] = nil end
      for k = #dropped, d + 1, -1 do dropped[k] = nil end
    end
    answers[i] = done and answer or reason(answer)
  end

  trim = function()
    local gone = {}
    local function cut(lane, l)
      trim_ended(lane, l, ended_kept)
      if history[lane] == 2 then trim_failed(lane, failed_kept) end
      aging(lane, l, ended_age, failed_age)
    end
    for lane, l in pairs(touched) do
      -- A history that is damaged is not cut, and its lane's harm alone.
      if history[lane] then pcall(cut, lane, l) end
      if l.gone then
        gone[#gone + 1] = lane
      else
        changed[#changed + 1], changed[#changed + 2] = lane, packed(l)
      end
    end
    each('HDEL', states, gone)
  end
end

each('HSET', heads, records)
drop(dropped)
each('SREM', base .. 'held:' .. me, freed)
each('ZADD', lanes, waiting)
each('SADD', base .. 'news:' .. me, news)
each('HDEL', heads, forgotten)
if trim then trim() end
each('HSET', states, changed)
return answers
