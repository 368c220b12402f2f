-- Makes a delivery due at once. ARGV[3…]: its id, its lane, its record as it was read, its renewed head,
-- its renewals. Answers 0 when the record is another by now.
local id, lane = ARGV[3], ARGV[4]
local record = redis.call('HGET', heads, id)
if record ~= ARGV[5] then return 0 end
local place, size, kind = struct.unpack(MARK, record)
local l = lane_at(lane)
if not l then return 0 end
index_lone(lane, l)

if kind == FAILED then
  redis.call('ZREM', base .. 'failed:' .. lane, id)
  redis.call('ZADD', open, '0', member(lane, place, id))
  l.n, l.bytes = l.n + 1, l.bytes + size
end
redis.call('HSET', heads, id, struct.pack(MARK, place, size, SCHEDULED, 0, ARGV[7]) .. ARGV[6])
-- Before all that have a time, in the order in which they were asked for.
redis.call('ZADD', base .. 'sched:' .. lane, now / 1000000, id)
l.late = 1
keep(lane, l)
if l.holder ~= NOBODY then
  if redis.call('SADD', base .. 'news:' .. l.holder, lane) == 1 then hint(l.holder, lane) end
elseif l.hold ~= PARKED then
  redis.call('ZADD', lanes, 'LT', now, lane)
end
return 1
