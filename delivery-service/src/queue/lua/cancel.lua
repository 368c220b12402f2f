-- Withdraws open deliveries of a lane. ARGV[3…]: the lane, how many at most, kept ended, ages of ended and
-- failed (ms), up to which place ("": all there are now), then, when only some are named, their ids.
-- Answers { up to which place others wait (0: none), record, record … } as they now are.
local lane, most, to = ARGV[3], tonumber(ARGV[4]), ARGV[8]
local open, sched, l = base .. 'open:' .. lane, base .. 'sched:' .. lane, lane_at(lane)
if not l then return { 0 } end

local found, rest = {}, 0
if #ARGV > 8 then
  local named = { unpack(ARGV, 9) }
  for i, place in ipairs(redis.call('ZMSCORE', open, unpack(named))) do
    if place then found[#found + 1] = named[i] end
  end
else
  if to == '' then to = string.format('%.0f', l.last) end
  found = redis.call('ZRANGE', open, '-inf', to, 'BYSCORE', 'LIMIT', 0, most + 1)
  if #found > most then
    found[#found] = nil
    rest = to
  end
end

local answer, records, entries, dropped = { tonumber(rest) }, {}, {}, {}
local stored = values(heads, found)
for i, id in ipairs(found) do
  dropped[#dropped + 1] = id
  -- One without a record is gone with a part of the store.
  if stored[i] then
    local place, size, kind, _, renewed = struct.unpack(MARK, stored[i])
    if kind < ENDED then
      local record = struct.pack(MARK, place, 0, ENDED, WITHDRAWN, renewed) .. withdrawn(string.sub(stored[i], 19))
      records[#records + 1], records[#records + 2] = id, record
      entries[#entries + 1] = struct.pack('>I8', place) .. id
      answer[#answer + 1] = record
      l.bytes = l.bytes - size
    end
  end
end
if #dropped == 0 then return answer end

each('HSET', heads, records)
each('HDEL', bodies, dropped)
l.n = l.n - each('ZREM', open, dropped)
each('ZREM', sched, dropped)
remember(lane, l, table.concat(entries))
trim_ended(lane, l, tonumber(ARGV[5]))
aging(lane, l, tonumber(ARGV[6]), tonumber(ARGV[7]))
keep(lane, l)
if l.holder ~= '' and l.holder ~= me then
  redis.call('SADD', base .. 'news:' .. l.holder, lane .. 'c')
end
return answer
