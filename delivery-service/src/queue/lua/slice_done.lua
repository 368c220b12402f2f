-- Makes failed deliveries due and moves their bulk retry on. ARGV[3…]: the lane, the place that it stood at, the
-- place to go on at ("": it is over); then for each: id, record as it was read, renewed head, renewals.
-- Answers the ids that are due now; of none when another has moved it on.
local lane, from, to = ARGV[3], ARGV[4], ARGV[5]
local l = lane_at(lane)
if not l or l.bulk_to == 0 or l.bulk ~= tonumber(from) then return {} end
index_lone(lane, l)
if to == '' then
  l.bulk, l.bulk_to = 0, 0
  redis.call('ZREM', base .. 'bulk', lane)
else
  l.bulk = tonumber(to)
end

local done, records, places, times, bytes = {}, {}, {}, {}, 0
for i = 6, #ARGV, 4 do
  local id = ARGV[i]
  if redis.call('HGET', heads, id) == ARGV[i + 1] then
    local place, size = struct.unpack(MARK, ARGV[i + 1])
    done[#done + 1] = id
    records[#records + 1] = id
    records[#records + 1] = struct.pack(MARK, place, size, SCHEDULED, 0, tonumber(ARGV[i + 3])) .. ARGV[i + 2]
    places[#places + 1], places[#places + 2] = '0', member(lane, place, id)
    times[#times + 1], times[#times + 2] = now, id
    bytes = bytes + size
  end
end
if #done == 0 then
  keep(lane, l)
  return done
end
each('HSET', heads, records)
each('ZREM', base .. 'failed:' .. lane, done)
each('ZADD', open, places)
each('ZADD', base .. 'sched:' .. lane, times)
l.n, l.bytes, l.late = l.n + #done, l.bytes + bytes, 1
keep(lane, l)
if l.holder ~= NOBODY then
  if redis.call('SADD', base .. 'news:' .. l.holder, lane) == 1 then hint(l.holder, lane) end
elseif l.hold ~= PARKED then
  redis.call('ZADD', lanes, 'LT', math.max(now, l.hold), lane)
end
return done
