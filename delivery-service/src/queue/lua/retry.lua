-- Makes a delivery due at once. ARGV[3…]: its id, its lane, its record as it was read, its renewed head,
-- its attempts. Answers 0 when the record is another by now.
local id, lane, attempts = ARGV[3], ARGV[4], tonumber(ARGV[7])
local record = redis.call('HGET', heads, id)
if record ~= ARGV[5] then return 0 end
local place, size, kind, flags, renewed = struct.unpack(MARK, record)
local l = lane_at(lane)
if not l then return 0 end

-- Whether the attempt that ends next began before: `renewed_at` tells, unless it stays what it was.
local unseen = 0
if kind == FAILED then
  redis.call('ZREM', base .. 'failed:' .. lane, id)
  redis.call('ZADD', base .. 'open:' .. lane, place, id)
  l.n, l.bytes = l.n + 1, l.bytes + size
elseif l.holder ~= '' and (renewed == attempts or flags >= UNSEEN) then
  unseen = UNSEEN
end
redis.call('HSET', heads, id, struct.pack(MARK, place, size, SCHEDULED, unseen, attempts) .. ARGV[6])
-- Before all that have a time, in the order in which they were asked for.
redis.call('ZADD', base .. 'sched:' .. lane, now / 1000000, id)
l.late = 1
keep(lane, l)
if l.holder ~= '' then
  if redis.call('SADD', base .. 'news:' .. l.holder, lane) == 1 then hint(l.holder, lane) end
elseif l.hold ~= PARKED then
  redis.call('ZADD', lanes, 'LT', now, lane)
end
return 1
