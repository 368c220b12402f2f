-- Withdraws open deliveries of a lane. ARGV[3…]: the lane, how many at most, kept ended, ages of ended and
-- failed (ms), up to which place ("": all there are now), then, when only some are named, their ids.
-- Answers { up to which place others wait (0: none), record, record … } as they now are.
local lane, most, to = ARGV[3], tonumber(ARGV[4]), ARGV[8]
local sched, l = base .. 'sched:' .. lane, lane_at(lane)
if not l then return { 0 } end
index_lone(lane, l)

local found, rest = {}, 0
if #ARGV > 8 then
  local named, members, seen = { unpack(ARGV, 9) }, {}, {}
  for i, record in ipairs(values(heads, named)) do
    if record and not seen[named[i]] then
      seen[named[i]] = true
      members[#members + 1] = member(lane, struct.unpack('>I8', record), named[i])
    end
  end
  local scores = #members > 0 and redis.call('ZMSCORE', open, unpack(members)) or {}
  for i, score in ipairs(scores) do
    if score then found[#found + 1] = members[i] end
  end
else
  to = to == '' and l.last or tonumber(to)
  found = redis.call('ZRANGE', open, '[' .. lane, '(' .. lane .. struct.pack('>I8', to + 1), 'BYLEX', 'LIMIT', 0,
    most + 1)
  if #found > most then
    found[#found] = nil
    rest = to
  end
end

local answer, records, entries, dropped, ids = { rest }, {}, {}, {}, {}
for i, entry in ipairs(found) do ids[i] = id_of(entry) end
local stored = values(heads, ids)
for i, id in ipairs(ids) do
  dropped[#dropped + 1] = id
  -- One without a record is gone with a part of the store.
  if stored[i] then
    local place, size, kind, _, renewed = struct.unpack(MARK, stored[i])
    if kind < ENDED then
      local record = struct.pack(MARK, place, 0, ENDED, WITHDRAWN, renewed) .. withdrawn(string.sub(stored[i], 19))
      records[#records + 1], records[#records + 2] = id, record
      entries[#entries + 1] = string.sub(found[i], 17)
      answer[#answer + 1] = record
      l.bytes = l.bytes - size
    end
  end
end
if #dropped == 0 then return answer end

each('HSET', heads, records)
drop(dropped)
l.n = l.n - each('ZREM', open, found)
each('ZREM', sched, dropped)
remember(lane, l, table.concat(entries))
trim_ended(lane, l, tonumber(ARGV[5]))
aging(lane, l, tonumber(ARGV[6]), tonumber(ARGV[7]))
keep(lane, l)
if l.holder ~= NOBODY and l.holder ~= me then
  redis.call('SADD', base .. 'news:' .. l.holder, lane .. 'c')
end
return answer
